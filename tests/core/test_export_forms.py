"""Runs of a model in the forms of catalogues and regulators, validated by the forms' own schemas and read by other programs."""

import csv
import io
import json
import platform
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from command import ml_energy
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from jsonschema import Draft4Validator, Draft202012Validator
from loads import steady
from msgspec.structs import replace
from referencing import Registry
from referencing.jsonschema import DRAFT4
from run_records import a_record
from spdx_python_model import v3_0_1

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.record.load import encode_record
from ml_energy_callbacks.record.schema import FlopsRecord, Part, RunRecord, StageRecord
from ml_energy_callbacks.report.export import Format, export
from ml_energy_callbacks.report.export.facts import NAMES, Facts, parse_facts
from ml_energy_callbacks.report.export.subject import Lifetime
from ml_energy_callbacks.report.lifecycle import lifecycle

KWH = 3.6e6
SCHEMAS = Path(__file__).parents[1] / "schemas"


FACTS = Facts(
    version="1.0", supplier="Acme", released="2026-11-30T00:00:00Z", download="https://example.org/model",
    task="image classification", data_type="image", infrastructure="onPremise",
)  # fmt: skip


def tuning() -> list[RunRecord]:
    """Return three runs of one model: a trial that failed, one that was stopped, and the one that completed."""
    return [
        a_record(seed=1, joules=3600, status="failed", tags={"trial": "1"}),
        a_record(seed=2, joules=7200, status="stopped", tags={"trial": "2"}),
        a_record(seed=3, joules=10800),
    ]


def serving(joules: float = 500.0) -> RunRecord:
    """Return a run of 1,000 predictions, one by one."""
    record = a_record(seed=9, joules=joules)
    stage: StageRecord = replace(
        record.stages["train"],
        joules=joules, sampled_joules=joules, joules_per_sample=joules / 1000, samples=1000, batches=1000, tokens=50_000,
        devices={"gpu:0": 0.8 * joules, "cpu:0": 0.2 * joules}, seconds=600.0, co2e_grams=record.total.co2e_grams,
    )  # fmt: skip
    return replace(record, stages={"predict": stage})


def without_energy(record: RunRecord) -> RunRecord:
    """Return a run of which no device could be read."""
    nothing = {"joules": None, "relative_uncertainty": None, "provenance": None, "co2e_grams": None}
    return replace(
        record,
        total=replace(record.total, kwh=None, **nothing),
        stages={name: replace(stage, **nothing) for name, stage in record.stages.items()},
        devices=[replace(device, joules=None) for device in record.devices],
    )


def parsed(text: str) -> Any:
    """Return what JSON says, which has neither NaN nor Infinity."""
    return json.loads(text, parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def spdx_schema() -> Draft202012Validator:
    return Draft202012Validator(json.loads((SCHEMAS / "spdx-3.0.1.schema.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def boamps_schema() -> Draft4Validator:
    names = ("algorithm", "dataset", "hardware", "measure", "report")
    schemas = [json.loads((SCHEMAS / "boamps" / f"{name}_schema.json").read_text(encoding="utf-8")) for name in names]
    registry: Any = Registry().with_resources([(schema["id"], DRAFT4.create_resource(schema)) for schema in schemas])
    return Draft4Validator(schemas[-1], registry=registry)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for record in tuning():
        path = tmp_path / "runs" / record.run.id / "energy.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_record(record))
    (tmp_path / "serving.json").write_bytes(encode_record(serving()))
    return tmp_path


# CycloneDX


def considerations(text: str) -> Any:
    (model,) = json.loads(text)["components"]
    assert model["type"] == "machine-learning-model"
    return model["modelCard"]["considerations"]["environmentalConsiderations"]


def by_activity(text: str) -> dict[str, Any]:
    return {found["activity"]: found for found in considerations(text)["energyConsumptions"]}


def properties(consumption: Any) -> dict[str, str]:
    return {each["name"].removeprefix("ml-energy:"): each["value"] for each in consumption["properties"]}


@pytest.mark.parametrize(
    ("form", "version"), [(Format.CYCLONEDX, SchemaVersion.V1_6), (Format.CYCLONEDX_1_7, SchemaVersion.V1_7)]
)
def test_a_bill_of_materials_is_valid_and_readable(form: Format, version: SchemaVersion) -> None:
    offset = replace(tuning()[0], carbon=replace(tuning()[0].carbon, offset_grams=0.05))
    facts = Facts(version="1.0", supplier="Acme <ACME>", energy_provider="EDF", energy_source="nuclear")
    text = export([offset, *tuning()[1:], serving()], form, facts)
    assert JsonStrictValidator(version).validate_str(text) is None
    bom = Bom.from_json(json.loads(text))  # type: ignore[attr-defined]
    (component,) = bom.components
    assert (component.name, component.version, component.supplier.name) == ("ResNet", "1.0", "Acme <ACME>")
    broken = text.replace('"unit": "kWh"', '"unit": "Wh"', 1)
    assert JsonStrictValidator(version).validate_str(broken) is not None  # the schema does look at the energy


def test_a_bill_of_materials_has_all_runs_and_all_energy() -> None:
    runs = tuning()
    found = by_activity(export([*runs, serving()], Format.CYCLONEDX))
    assert list(found) == ["training", "validation", "inference", "other"]
    kwh = {name: each["activityEnergyCost"]["value"] for name, each in found.items()}
    assert kwh["training"] == pytest.approx(0.85 * 21600 / KWH)
    assert kwh["inference"] == pytest.approx(500 / KWH)
    assert sum(kwh.values()) == pytest.approx((21600 + 500) / KWH)
    assert found["training"]["co2CostEquivalent"]["value"] * 1e6 == pytest.approx(kwh["training"] * 56)
    assert "co2CostOffset" not in found["training"]
    assert found["training"]["energyProviders"] == []
    told = properties(found["training"])
    assert float(told["kWhLow"]) == pytest.approx(0.95 * kwh["training"], rel=1e-5)
    assert float(told["kWhHigh"]) == pytest.approx(1.05 * kwh["training"], rel=1e-5)
    assert (told["provenance"], told["lowerBound"]) == ("measured", "false")
    assert "All runs count (1 failed, 1 stopped, 1 completed)" in told["method"]
    listed = [each["value"] for each in considerations(export(runs, Format.CYCLONEDX))["properties"]]
    assert [line.split(",")[0] for line in listed] == [run.run.id for run in runs]
    assert ", failed, trial=1, 0.00100 kWh" in listed[0]


def test_offsets_fall_to_activities_by_their_emissions() -> None:
    run = a_record(seed=1)
    offset = replace(run, carbon=replace(run.carbon, offset_grams=0.05))
    found = by_activity(export(offset, Format.CYCLONEDX))
    assert found["training"]["co2CostOffset"]["value"] * 1e6 == pytest.approx(0.85 * 0.05)
    assert sum(each["co2CostOffset"]["value"] for each in found.values()) * 1e6 == pytest.approx(0.05)


def test_energy_of_a_fine_tuning_is_an_activity_of_its_own() -> None:
    found = by_activity(export(tuning(), Format.CYCLONEDX, Facts(training_type="fine-tuning")))
    assert list(found) == ["fine-tuning", "validation", "other"]


def test_unknown_energy_is_a_lower_bound_and_never_zero() -> None:
    blind = without_energy(a_record(seed=4))
    (training, *_) = by_activity(export([*tuning(), blind], Format.CYCLONEDX)).values()
    told = properties(training)
    assert training["activityEnergyCost"]["value"] == pytest.approx(0.85 * 21600 / KWH)
    assert told["lowerBound"] == "true"
    assert "Energy is missing from run 00000000, so that the value is a lower bound." in told["method"]
    with pytest.raises(RecordError, match="energy of the runs is unknown"):
        export(blind, Format.CYCLONEDX)


def test_an_export_of_the_same_runs_is_the_same() -> None:
    assert export(tuning(), Format.CYCLONEDX) == export(tuning()[::-1], Format.CYCLONEDX)


# Which runs count


def test_a_run_counts_once_and_not_beside_the_command_that_includes_it() -> None:
    runs = tuning()
    early = replace(runs[0], total=replace(runs[0].total, seconds=1.0))
    inner = a_record(seed=5, within=runs[1].run.id)
    found = by_activity(export([*runs, early, inner], Format.CYCLONEDX))["training"]
    assert found["activityEnergyCost"]["value"] == pytest.approx(0.85 * 21600 / KWH)
    assert properties(found)["lowerBound"] == "true"  # the other record of the run may have energy that this one lacks


def test_runs_of_several_models_are_refused_until_they_are_named() -> None:
    runs = [a_record(seed=1), a_record(seed=2, model="ViT")]
    with pytest.raises(ConfigurationError, match=r"several models \(ResNet, ViT\): choose the runs of one"):
        export(runs, Format.CYCLONEDX)
    assert '"name": "ResNet and ViT"' in export(runs, Format.CYCLONEDX, Facts(model="ResNet and ViT"))


def test_a_source_of_electricity_is_not_left_out_for_want_of_a_provider() -> None:
    with pytest.raises(ConfigurationError, match=r"An energy source in CycloneDX requires .*--set energy_provider="):
        export(tuning(), Format.CYCLONEDX, Facts(energy_source="wind"))


def test_a_required_name_is_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="CycloneDX requires what no record knows; give it as in: --set model=ResNet"):
        export(a_record(model=None), Format.CYCLONEDX)


def test_there_is_no_export_of_nothing_or_of_one_process_of_a_job() -> None:
    with pytest.raises(RecordError, match="no run to export"):
        export([], Format.CYCLONEDX)
    one = replace(a_record(world_size=2), part=Part(rank=1, host="a", hostname="a", uses=[]))
    with pytest.raises(RecordError, match="of one process of a job"):
        export([a_record(), one], Format.CYCLONEDX)


def test_a_lifetimes_predictions_are_its_inference() -> None:
    runs = tuning()
    life = Lifetime(serving(), lifecycle(runs, serving(), per_day=1e6, days=365))
    text = export(runs, Format.CYCLONEDX, lifetime=life)
    found = by_activity(text)
    assert found["inference"]["activityEnergyCost"]["value"] == pytest.approx(365e6 * 0.5 / KWH)
    told = properties(found["inference"])
    assert "365,000,000 of 0.500 J each, as in stage predict;" in told["method"]
    assert told["provenance"] == "estimated"  # nobody has measured what is to come
    assert "NVIDIA H100, AMD EPYC on node-a" in told["method"]
    listed = [each["value"] for each in considerations(text)["properties"]]
    assert [line.split(",")[0] for line in listed] == [run.run.id for run in [*runs, serving()]]
    assert listed[-1].endswith(" (for the energy of a prediction alone)")
    assert found["training"] == by_activity(export(runs, Format.CYCLONEDX))["training"]


def test_a_real_run_fits_every_form(spdx_schema: Draft202012Validator, boamps_schema: Draft4Validator) -> None:
    meter = EnergyMeter(backends=[steady(100.0)], location="aws:eu-west-3", offset_grams=0.001, verbose=False)
    with meter:
        for name in ("train", "predict"):
            with meter.stage(name), meter.batch(samples=8, tokens=80):
                sum(range(1_000_000))
    run = meter.record
    facts = replace(FACTS, model="Sum", infrastructure=None)
    bom = export(run, Format.CYCLONEDX, facts)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom) is None
    kwh = [each["activityEnergyCost"]["value"] for each in by_activity(bom).values()]
    assert sum(kwh) == pytest.approx(run.total.kwh)
    document = export(run, Format.SPDX, facts)
    spdx_schema.validate(json.loads(document))
    assert '"expandedlicensing_NoAssertionLicense"' in document
    assert float(sum(energies(document).values())) == pytest.approx(run.total.kwh, rel=1e-6)
    report = json.loads(export(run, Format.BOAMPS, facts))
    boamps_schema.validate(report)
    assert report["infrastructure"]["cloudProvider"] == "aws"
    assert report["software"]["version"] == platform.python_version()
    scores = json.loads(export(run, Format.SCI_AI, facts))
    assert [each["functional_unit"] for each in scores["provider"]["scores"]] == ["training token"]
    energy = json.loads(export(run, Format.EU_GPAI_JSON, facts))
    both = energy["training_energy"]["mwh"] + energy["inference_energy"]["mwh"]
    assert both == pytest.approx(run.total.kwh / 1000)  # type: ignore[operator]


def forgetful(seed: int) -> RunRecord:
    """Return a run of which much is unknown, by chance."""
    chance = random.Random(seed)

    def forget(struct: Any, *names: str) -> Any:
        return replace(struct, **{name: None for name in names if chance.random() < 0.3})

    run = a_record(seed=seed, joules=chance.choice([0.0, 1e-9, 7200.0, 1e14]), seconds=chance.choice([0.5, 600.0, 4e7]))
    carbon = replace(
        run.carbon, pue=chance.choice([1.0, 1.3]), assumed=chance.random() < 0.3, offset_grams=chance.choice([None, 1.0])
    )
    return replace(
        run,
        run=forget(replace(run.run, status=chance.choice(["completed", "failed", "running", "stopped"])), "model", "ended_at"),
        devices=[forget(device, "joules") for device in run.devices][: chance.randrange(3)],
        stages={
            chance.choice([name, "predict"]): forget(
                stage, "joules", "samples", "relative_uncertainty", "provenance", "co2e_grams"
            )
            for name, stage in run.stages.items()
        },
        total=forget(run.total, "joules", "relative_uncertainty", "co2e_grams"),
        carbon=forget(carbon, "location"),
    )


@pytest.mark.parametrize("seed", range(20))
def test_what_is_unknown_never_makes_a_form_invalid(seed: int, boamps_schema: Draft4Validator) -> None:
    runs = [forgetful(3 * seed + i) for i in range(random.Random(seed).choice([1, 3]))]
    facts = replace(FACTS, model="ResNet", flops=1e15, dataset=PROTOCOL.dataset)
    for form in Format:
        try:
            text = export(runs, form, facts)
        except RecordError:
            continue
        if form is Format.CYCLONEDX:
            assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        elif form is Format.BOAMPS:
            boamps_schema.validate(parsed(text))
        elif form is Format.SPDX:
            assert energies(text)
        elif text.startswith(("{", "[")):
            parsed(text)


# The forms that were there before


def test_codecarbons_csv_has_a_row_for_each_run_and_the_model_as_project() -> None:
    rows = export(tuning(), Format.CODECARBON_CSV).splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == ["ResNet"] * 3
    assert [row.split(",")[2] for row in rows] == [run.run.id for run in tuning()]
    assert export(a_record(), Format.CODECARBON_CSV, Facts(model="=1+1")).splitlines()[1].split(",")[1] == "'=1+1"


def test_a_model_card_adds_up_all_runs_and_says_so() -> None:
    card = export(tuning(), Format.MODEL_CARD, Facts(training_type="pre-training"))
    assert 'training_type: "pre-training"' in card
    assert f"emissions: {21600 / KWH * 56:.6g}" in card
    assert "; all 3 runs count (1 failed, 1 stopped, 1 completed)" in card
    assert "at least 0.006 kWh" in export([*tuning(), without_energy(a_record(seed=4))], Format.MODEL_CARD)


def test_a_statement_names_its_run() -> None:
    found = parsed(export(tuning(), Format.SCI_JSON))
    assert {each["run"] for each in found} == {run.run.id for run in tuning()}


# The AI Act's form


def test_the_acts_items_are_the_runs_figures() -> None:
    facts = Facts(
        flops=2.5e15, flops_method="Counted by operators.", inference_flops=1e12, inference_task="1,000 images",
    )  # fmt: skip
    found = parsed(export([*tuning(), serving()], Format.EU_GPAI_JSON, facts))
    time, energy = found["training_time"], found["training_energy"]
    assert time["wall_clock_days"] == pytest.approx(3 * 600 / 86400)
    assert (time["range"], time["hardware"], time["hardware_days"]) == (
        "less than 1 month",
        "NVIDIA H100",
        time["wall_clock_days"],
    )
    assert energy["mwh"] == pytest.approx(21600 / KWH / 1000)
    assert (energy["mwh_low"], energy["mwh_high"]) == pytest.approx((0.95 * energy["mwh"], 1.05 * energy["mwh"]))
    assert found["inference_energy"]["mwh"] == pytest.approx(500 / KWH / 1000)
    assert found["training_computation"] == {"flop": 2.5e15, "order_of_magnitude": 15, "method": "Counted by operators."}
    assert found["inference_computation"] == {"flop": 1e12, "task": "1,000 images", "hardware": "NVIDIA H100, AMD EPYC"}
    assert [line.split(", ")[2] for line in found["runs"]] == ["failed", "stopped", "completed", "completed"]
    assert 50 < len(energy["method"].split()) < 130  # the form recommends about 100 words


def test_the_operations_of_the_training_are_those_of_the_records() -> None:
    flops = FlopsRecord(total=2e12, per_sample=2e9, method="torch operators")
    counted = [replace(run, stages={"train": replace(run.stages["train"], flops=flops)}) for run in tuning()]
    found = parsed(export(counted, Format.EU_GPAI_JSON))["training_computation"]
    assert (found["flop"], found["order_of_magnitude"]) == (6e12, 12)
    assert found["method"].startswith("counted from torch's operators in one batch")
    scores = parsed(export(counted, Format.SCI_AI))["provider"]["scores"]
    assert "g CO2e per 10^15 FLOP" in {score["sci_unit"] for score in scores}
    unknown = parsed(export([*counted, a_record(seed=4)], Format.EU_GPAI_JSON))["training_computation"]
    assert unknown["flop"] == "N/A: the FLOP of the training were not counted"


def test_the_method_says_which_share_was_measured() -> None:
    run = a_record()
    gpu, cpu = run.devices
    mixed = replace(run, devices=[gpu, replace(cpu, provenance="estimated", method="model")])
    text = parsed(export(mixed, Format.EU_GPAI_JSON))["training_energy"]["method"]
    assert "80 % is measured with energy counters (NVIDIA H100). 20 % is estimated with power models (AMD EPYC)." in text
    tiny = replace(run, devices=[gpu, replace(cpu, provenance="estimated", method="model", joules=0.001)])
    text = parsed(export(tiny, Format.EU_GPAI_JSON))["training_energy"]["method"]
    assert ">99 % is measured" in text
    assert "<1 % is estimated" in text


def test_hardware_days_count_each_accelerator() -> None:
    time = parsed(export(a_record(devices=9), Format.EU_GPAI_JSON))["training_time"]
    assert time["hardware_days"] == pytest.approx(8 * time["wall_clock_days"])
    assert time["hardware"] == "8 x NVIDIA H100"


@pytest.mark.parametrize(
    ("days", "said"), [(20, "less than 1 month"), (40, "1 to 3 months"), (120, "3 to 6 months"), (400, "more than 6 months")]
)
def test_training_time_has_the_forms_ranges(days: float, said: str) -> None:
    assert parsed(export(a_record(seconds=days * 86400), Format.EU_GPAI_JSON))["training_time"]["range"] == said


def test_what_the_act_asks_and_nobody_knows_is_not_available_with_the_reason() -> None:
    found = parsed(export(without_energy(a_record(model=None)), Format.EU_GPAI_JSON))
    assert found["model"] == "N/A: no record has a name of the model"
    assert found["training_energy"]["mwh"] == "N/A: no energy of training is in the records"
    assert found["training_computation"]["flop"] == "N/A: the FLOP of the training were not counted"
    assert found["inference_computation"]["hardware"] == "N/A: no task of inference was benchmarked"
    without = parsed(export(tuning(), Format.EU_GPAI_JSON, Facts(inference_task="1,000 images")))
    assert without["inference_computation"]["hardware"] == "N/A: no run has a stage predict"
    with pytest.raises(RecordError, match="No run has a stage train"):
        export(serving(), Format.EU_GPAI)


def test_markdown_shows_the_same_items_with_intervals() -> None:
    text = export([*tuning(), serving()], Format.EU_GPAI, Facts(model="Res|Net <b>"))
    assert text.startswith(r"# Energy and compute of Res\|Net \<b\>")
    assert r"| Amount of energy used for training (MWh) | 6.00\*10^-6 MWh ±5 % (measured) |" in text
    assert "| Amount of computation used for training (FLOP) | N/A: the FLOP of the training were not counted |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.replace(r"\|", "").count("|") == 3 for line in rows)
    assert len([line for line in text.splitlines() if line.startswith("- 0000")]) == 4


# SPDX


def energies(text: str) -> dict[str, Decimal]:
    """Return the kinds of energy in kWh, as SPDX's own model reads them."""
    objects = v3_0_1.SHACLObjectSet()
    v3_0_1.JSONLDDeserializer().read(io.BytesIO(text.encode()), objects)
    (package,) = objects.foreach_type(v3_0_1.ai_AIPackage)
    found: dict[str, Decimal] = {}
    for kind in ("training", "finetuning", "inference"):
        for each in getattr(package.ai_energyConsumption, f"ai_{kind}EnergyConsumption"):
            assert each.ai_energyUnit == v3_0_1.ai_EnergyUnitType.kilowattHour
            found[kind] = Decimal(each.ai_energyQuantity)
    return found


def test_an_spdx_document_is_valid_and_its_model_reads_it(spdx_schema: Draft202012Validator) -> None:
    text = export([*tuning(), serving()], Format.SPDX, replace(FACTS, license="Apache-2.0"))
    document = parsed(text)
    spdx_schema.validate(document)
    found = energies(text)
    assert list(found) == ["training", "inference"]
    assert [float(kwh) for kwh in found.values()] == pytest.approx([21600 / KWH, 500 / KWH])
    (package,) = (each for each in document["@graph"] if each["type"] == "ai_AIPackage")
    assert package["comment"].startswith("training: 0.00600 kWh ±5 %. inference: 0.000139 kWh ±5 %. Energy of the devices")
    licensed = [each["to"] for each in document["@graph"] if each["type"] == "Relationship"]
    (named,) = [each["spdxId"] for each in document["@graph"] if "simplelicensing_licenseExpression" in each]
    assert licensed == [[named], [named]]
    energy, part = package["ai_energyConsumption"], spdx_schema.evolve(schema={"$ref": "#/$defs/ai_EnergyConsumption_props"})
    assert part.is_valid(energy)
    energy["ai_trainingEnergyConsumption"][0]["ai_energyUnit"] = "kWh"
    assert not part.is_valid(energy)  # the schema does look at the energy


def test_spdx_tells_fine_tuning_apart_and_takes_every_size_of_number(spdx_schema: Draft202012Validator) -> None:
    part = spdx_schema.evolve(schema={"$ref": "#/$defs/prop_ai_EnergyConsumptionDescription_ai_energyQuantity"})
    for joules in (1e-6, 1.0, 3.6e6, 1.23456789e15):
        text = export(a_record(joules=joules), Format.SPDX, replace(FACTS, training_type="fine-tuning"))
        (kwh,) = energies(text).values()
        (written,) = re.findall('"ai_energyQuantity": (.*),', text)
        part.validate(json.loads(written))
        assert float(kwh) == pytest.approx(joules / KWH, rel=1e-5)
        assert list(energies(text)) == ["finetuning"]


def test_all_that_spdx_requires_is_asked_for_at_once() -> None:
    asked = (
        "SPDX requires what no record knows; give it as in: --set version=1.0 --set supplier=Acme --set released=.* --set down"
    )
    with pytest.raises(ConfigurationError, match=asked):
        export(tuning(), Format.SPDX)


# BoAmps


def test_a_boamps_report_is_valid_and_its_measures_add_up(boamps_schema: Draft4Validator) -> None:
    runs = [*tuning(), serving()]
    facts = replace(FACTS, parameters=25e6, publisher="Acme", confidentiality="public", training_type="fine-tuning")
    found = parsed(export(runs, Format.BOAMPS, facts))
    boamps_schema.validate(found)
    assert sum(each["powerConsumption"] for each in found["measures"]) == pytest.approx(22100 / KWH)
    assert [each["measurementDuration"] for each in found["measures"]] == [600.0] * 4
    assert found["measures"][0]["measurementDateTime"] == "2026-11-02 10:00:00"
    task = found["task"]
    assert (task["taskStage"], task["nbRequest"]) == ("finetuning+inference", 1000)
    assert task["dataset"] == [{"dataUsage": "input", "dataType": "image", "dataQuantity": 2500}]
    (algorithm,) = task["algorithms"]
    assert (algorithm["algorithmName"], algorithm["parametersNumber"], algorithm["framework"]) == (
        "ResNet",
        0.025,
        "pytorch_lightning",
    )
    assert found["environment"] == {"country": "France", "powerSourceCarbonIntensity": 56.0}
    assert found["header"]["publisher"] == {"name": "Acme", "confidentialityLevel": "public"}
    assert found["quality"] == "high"
    assert all(run.run.id in task["taskDescription"] for run in runs)
    assert not boamps_schema.is_valid({**found, "measures": [{"measurementMethod": "x"}]})  # its parts are looked at, too


@pytest.mark.parametrize(("doubt", "quality"), [(0.1, "high"), (0.2, "medium"), (0.4, "low"), (0.6, None)])
def test_quality_is_that_of_the_interval(doubt: float, quality: str | None) -> None:
    assert parsed(export(a_record(uncertainty=doubt), Format.BOAMPS, FACTS)).get("quality") == quality


def test_idle_power_is_the_calibration(boamps_schema: Draft4Validator) -> None:
    run = a_record(options={"idle_seconds": "5.0"})
    idle = replace(run, devices=[replace(device, idle_watts=36.0) for device in run.devices])
    found = parsed(export(idle, Format.BOAMPS, FACTS))
    boamps_schema.validate(found)
    (measure,) = found["measures"]
    assert (measure["powerCalibrationMeasurement"], measure["durationCalibrationMeasurement"]) == (
        pytest.approx(72 * 5 / KWH),
        5.0,
    )
    (without,) = parsed(export(run, Format.BOAMPS, FACTS))["measures"]
    assert "powerCalibrationMeasurement" not in without


def test_boamps_leaves_out_what_is_unknown_and_asks_for_what_it_requires(boamps_schema: Draft4Validator) -> None:
    blind = without_energy(a_record(seed=4))
    found = parsed(export([*tuning(), blind], Format.BOAMPS, FACTS))
    boamps_schema.validate(found)
    assert len(found["measures"]) == 3
    assert "quality" not in found
    assert f"{blind.run.id}, {blind.run.started_at}, completed, energy unknown" in found["task"]["taskDescription"]
    with pytest.raises(
        ConfigurationError, match="--set task='image classification' --set data_type=image --set infrastructure="
    ):
        export(tuning(), Format.BOAMPS)
    with pytest.raises(ConfigurationError, match="--set confidentiality=public"):
        export(tuning(), Format.BOAMPS, replace(FACTS, publisher="Acme"))
    with pytest.raises(RecordError, match="energy or the devices of the runs are unknown"):
        export(blind, Format.BOAMPS, FACTS)


def test_a_cloud_is_the_infrastructure_of_its_runs() -> None:
    run = a_record()
    cloud = replace(run, carbon=replace(run.carbon, location="aws:eu-west-3"))
    found = parsed(export(cloud, Format.BOAMPS, replace(FACTS, infrastructure=None)))
    assert (found["infrastructure"]["infraType"], found["infrastructure"]["cloudProvider"]) == ("publicCloud", "aws")


# SCI for AI


def test_both_scores_are_emissions_for_each_unit() -> None:
    facts = Facts(flops=2e15, parameters=25e6, functional_unit="image", rationale="Billed by image.")
    found = parsed(export([*tuning(), serving()], Format.SCI_AI, facts))
    consumer, provider = found["consumer"], found["provider"]
    assert consumer["operational_g"] == pytest.approx(500 / KWH * 56)
    assert consumer["energy_kwh"] == pytest.approx(1.2 * 500 / KWH)  # with the PUE
    assert [(each["functional_unit"], each["units"]) for each in consumer["scores"]] == [("image", 1000), ("token", 50_000)]
    assert consumer["scores"][0]["sci"] == pytest.approx(consumer["operational_g"] / 1000)
    assert consumer["rationale"] == "Billed by image."
    assert provider["operational_g"] == pytest.approx(21600 / KWH * 56)
    flop, parameter = provider["scores"]
    assert (flop["sci"], flop["sci_unit"]) == (pytest.approx(provider["operational_g"] / 2), "g CO2e per 10^15 FLOP")
    assert (parameter["sci"], parameter["sci_unit"]) == (
        pytest.approx(provider["operational_g"] * 40),
        "g CO2e per 10^9 parameters",
    )
    assert (flop["sci_low"], flop["sci_high"]) == pytest.approx((0.95 * flop["sci"], 1.05 * flop["sci"]))
    assert "Energy and emissions include the data centre's PUE of 1.2" in provider["boundary"]
    assert provider["boundary"].endswith("Embodied emissions are unknown and not included.")


def test_embodied_emissions_are_in_the_scores_by_time() -> None:
    run = a_record()
    made = replace(run, carbon=replace(run.carbon, embodied_grams=2.0))
    provider = parsed(export(made, Format.SCI_AI, Facts(flops=1e15)))["provider"]
    assert provider["embodied_g"] == pytest.approx(2.0)
    assert provider["scores"][0]["sci"] == pytest.approx(run.total.co2e_grams + 2.0)  # type: ignore[operator]
    assert "mbodied" not in provider["boundary"]


def test_a_score_of_unknown_units_is_not_available_with_the_reason() -> None:
    found = parsed(export(serving(), Format.SCI_AI))
    assert found["provider"] == "N/A: the emissions are not in the records"
    found = parsed(export([*tuning(), serving()], Format.SCI_AI))
    assert found["provider"] == "N/A: the number of no unit is known (FLOP, training token, parameter)"
    with pytest.raises(RecordError, match="Neither score can be calculated"):
        export(tuning(), Format.SCI_AI)


# AI Energy Score

PROTOCOL = Facts(task="image_classification", dataset="AIEnergyScore/image_classification", model_class="B")


def ten_runs(**changes: Any) -> list[RunRecord]:
    """Return ten runs that followed the protocol, except for changes of the first one's stage."""
    runs = [replace(serving(500.0 + i), run=replace(serving().run, id=f"{i:032x}")) for i in range(10)]
    runs[0].stages["predict"] = replace(runs[0].stages["predict"], **changes)
    return runs


def test_the_energy_score_is_the_mean_of_the_gpus_alone() -> None:
    runs = ten_runs()
    rows = list(csv.DictReader(io.StringIO(export(runs, Format.AI_ENERGY_SCORE, PROTOCOL))))
    assert len(rows) == 10
    assert (rows[0]["model_name"], rows[0]["model_class"], rows[0]["task"]) == ("ResNet", "B", "image_classification")
    assert float(rows[0]["gpu_energy_wh"]) == pytest.approx(0.8 * 500 / 3600)
    assert float(rows[0]["tokens_per_joule"]) == pytest.approx(50_000 / 400)
    assert float(rows[0]["co2_emissions_g"]) == pytest.approx(0.8 * 500 / KWH * 56)
    assert (rows[0]["total_prompts"], rows[0]["avg_time_to_first_token"], rows[0]["reasoning_state"]) == ("1000", "", "")
    summary = parsed(export(runs, Format.AI_ENERGY_SCORE_JSON, PROTOCOL))
    assert (summary["units"], summary["total"]) == ("Wh", pytest.approx(0.8 * 504.5 / 3600))
    assert summary["standard_deviation"] == pytest.approx(0.8 * 3.02765 / 3600)
    assert "decode_wh" not in summary


def test_phases_of_the_energy_score_are_sub_stages() -> None:
    runs = ten_runs()
    for run in runs:
        decode = replace(run.stages["predict"], devices={"gpu:0": 100.0})
        run.stages["predict"] = replace(run.stages["predict"], substages={"decode": decode})
    assert parsed(export(runs, Format.AI_ENERGY_SCORE_JSON, PROTOCOL))["decode_wh"] == pytest.approx(100 / 3600)


@pytest.mark.parametrize(
    ("runs", "facts", "says"),
    [
        (ten_runs()[:9], {}, "it asks for 10 runs, and 9 are given"),
        (ten_runs(batches=125), {}, "has 1000 in 125 batches predictions, and it asks for 1,000 one by one"),
        (ten_runs(samples=100, batches=100), {}, "has 100 in 100 batches"),
        (ten_runs(), {"task": "juggling"}, "juggling is none of its tasks"),
        (ten_runs(), {"dataset": "imagenet"}, "the dataset imagenet is none of its own"),
    ],
)
def test_runs_that_did_not_follow_the_protocol_are_refused(runs: list[RunRecord], facts: dict[str, Any], says: str) -> None:
    with pytest.raises(RecordError, match=f"The protocol of the AI Energy Score was not followed: .*{says}"):
        export(runs, Format.AI_ENERGY_SCORE, replace(PROTOCOL, **facts))


def test_other_hardware_than_the_protocols_is_refused() -> None:
    runs = ten_runs()
    for change, says in (
        ({"name": "NVIDIA A100"}, "used NVIDIA A100"),
        ({"name": "NVIDIA H100 NVL"}, "used NVIDIA H100 NVL"),
        ({"kind": "cpu"}, "used no GPU"),
        ({"provenance": "estimated"}, "was not measured"),
    ):
        gpu, cpu = runs[0].devices
        changed = [replace(runs[0], devices=[replace(gpu, **change), cpu]), *runs[1:]]
        with pytest.raises(RecordError, match=f"run 00000000 .*{says}"):
            export(changed, Format.AI_ENERGY_SCORE, PROTOCOL)
    two = [replace(run, devices=[*run.devices, replace(run.devices[0], id="gpu:1")]) for run in runs]
    with pytest.raises(RecordError, match="used 2 GPUs, and it asks for one with class B"):
        export(two, Format.AI_ENERGY_SCORE, PROTOCOL)


def test_the_energy_score_asks_for_its_task_and_dataset() -> None:
    with pytest.raises(ConfigurationError, match=r"The AI Energy Score requires .*--set task=.* --set dataset=AIEnergyScore/"):
        export(ten_runs(), Format.AI_ENERGY_SCORE)


# Facts and the command


@pytest.mark.parametrize(
    ("pairs", "form", "says"),
    [
        (["model"], Format.CYCLONEDX, "has no value; give model, version"),
        (["flops=1"], Format.CYCLONEDX, "is none of cyclonedx; give model, version"),
        (["model=a", "model=b"], Format.CYCLONEDX, "is given twice"),
        (["model=a"], Format.SCI_JSON, "is none of sci-json; it takes none"),
        (["flops=many"], Format.EU_GPAI, "is impossible; flops is a number above 0"),
        (["flops=nan"], Format.EU_GPAI, "is impossible; flops is a number above 0"),
        (["flops=-1"], Format.EU_GPAI, "is impossible; flops is a number above 0"),
        (["model= "], Format.EU_GPAI, "is impossible; model is a text"),
        (["training_type=tuning"], Format.MODEL_CARD, "training_type is one of pre-training, fine-tuning"),
        (["released=soon"], Format.SPDX, "'released=soon' is impossible; released is a time in UTC such as 2026-"),
    ],
)
def test_impossible_facts_are_refused(pairs: list[str], form: Format, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        parse_facts(pairs, form)


def test_each_format_names_facts_that_there_are() -> None:
    assert set(NAMES) == set(Format)
    assert {name for names in NAMES.values() for name in names} <= set(Facts.__struct_fields__)


def test_the_command_exports_all_runs_below_a_folder(folder: Path) -> None:
    done = ml_energy("export", folder / "runs", "--format", "cyclonedx", "--set", "version=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == export(tuning(), Format.CYCLONEDX, Facts(version="2"))
    both = ml_energy("export", *(folder / "runs").iterdir(), "--format", "codecarbon-csv")
    assert both.stdout == export(tuning(), Format.CODECARBON_CSV)


def test_the_command_exports_a_lifetime(folder: Path) -> None:
    options = ("--predict", folder / "serving.json", "--per-day", "1000", "--days", "10")
    done = ml_energy("export", folder / "runs", "--format", "eu-gpai-json", *options)
    assert done.returncode == 0
    assert json.loads(done.stdout)["inference_energy"]["mwh"] == pytest.approx(10_000 * 0.5 / KWH / 1000)
    lacking = ml_energy("export", folder / "runs", "--format", "eu-gpai", *options[:4])
    assert (lacking.returncode, lacking.stdout) == (2, "")
    assert "need --predict, --per-day and --days together" in lacking.stderr
    other = ml_energy("export", folder / "runs", "--format", "model-card", *options)
    assert (other.returncode, other.stdout) == (2, "")
    assert "model-card has no place for predictions that were not made" in other.stderr


@pytest.mark.parametrize("form", Format)
def test_every_format_takes_texts_of_any_kind(form: Format) -> None:
    odd = 'a"b\\c<script>|\x1b[31m\u202e\n=1+1'
    runs = ten_runs() if form in {Format.AI_ENERGY_SCORE, Format.AI_ENERGY_SCORE_JSON} else [*tuning(), serving()]
    told = [replace(run, run=replace(run.run, model=odd, hostnames=[odd], tags={odd: odd})) for run in runs]
    facts = replace(PROTOCOL if len(told) == 10 else replace(FACTS, flops=1e15), supplier=odd, publisher=None)
    text = export(told, form, facts)
    assert not set("\x1b\u202e\r") & set(text)
    text.encode()
    if text.startswith(("{", "[")):
        parsed(text)


def test_a_broken_record_among_others_is_an_error(folder: Path) -> None:
    (next((folder / "runs").iterdir()) / "energy.json").write_text("{", encoding="utf-8")
    done = ml_energy("export", folder / "runs", "--format", "cyclonedx")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not a run record" in done.stderr

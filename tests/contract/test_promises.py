"""What the callbacks of all frameworks promise: names, record, errors, bad input. Run for each of them."""

import copy
import inspect
import json
import math
import pickle
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import frameworks
import fsspec
import pytest
from service import Service

from ml_energy_callbacks import load_record
from ml_energy_callbacks.carbon import CarbonIntensity, ElectricityMaps, NationalGrid
from ml_energy_callbacks.exceptions import ConfigurationError

framework = frameworks.load()
EnergyCallback = framework.EnergyCallback

OPTIONS = {
    "devices": "auto",
    "sample_interval": 0.05,
    "location": None,
    "carbon_intensity": None,
    "electricity_price": None,
    "currency": "USD",
    "pue": 1.0,
    "wue": None,
    "embodied_kg": None,
    "lifetime_years": None,
    "offset_grams": None,
    "batch_size_fn": None,
    "count_fn": None,
    "count_flops": False,
    "log_every_n_steps": None,
    "parts": False,
    "layers_every_n_steps": None,
    "metrics": "core",
    "output_dir": None,
    "recording": None,
    "raw_readings": False,
    "verbose": True,
    "scope": "machine",
    "idle_seconds": 0.0,
    "flops_per_sample": None,
    "tags": None,
    "backends": None,
}


def energy_callback(folder: Path, **options: Any) -> Any:
    return EnergyCallback(**{"verbose": False, **framework.record_folder(folder), **options})


def test_the_options_are_the_same_in_the_same_words_by_keyword_alone() -> None:
    parameters = list(inspect.signature(EnergyCallback.__init__).parameters.values())[1:]
    assert {parameter.name: parameter.default for parameter in parameters} == OPTIONS
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    for name in OPTIONS:
        assert re.search(rf"^    {name}: ", inspect.getdoc(EnergyCallback) or "", re.MULTILINE)


def test_every_stage_is_in_the_record_and_the_record_adds_up(tmp_path: Path, no_thread_lives: Callable[[], bool]) -> None:
    energy = energy_callback(tmp_path, location="FRA", electricity_price=0.3, currency="EUR")
    loops = framework.Loops(tmp_path)
    loops.fit([energy], samples=42, batch_size=4, validation=12, epochs=2)
    loops.test([energy], 13, 4)
    loops.predict([energy], 6, 4)
    record = energy.record
    counts = {name: (stage.batches, stage.samples) for name, stage in record.stages.items()}
    assert counts == {"other": (0, None), "train": (22, 84), "validate": (6, 24), "test": (4, 13), "predict": (2, 6)}
    # Whether an epoch ends before or after its validation is the framework's choice.
    epochs = {(epoch.index, epoch.stage, epoch.samples) for epoch in record.epochs[:4]}
    assert epochs == {(0, "validate", 12), (0, "train", 42), (1, "validate", 12), (1, "train", 42)}
    assert [(epoch.stage, epoch.samples) for epoch in record.epochs[4:]] == [("test", 13), ("predict", 6)]
    total = record.total.joules
    assert total is not None
    assert total > 0
    assert sum(stage.joules or 0 for stage in record.stages.values()) == pytest.approx(total, rel=1e-9)
    assert sum(device.joules or 0 for device in record.devices) == pytest.approx(total, rel=1e-9)
    for stage in record.stages.values():
        assert sum(stage.devices.values()) == pytest.approx(stage.joules, rel=1e-9)
        assert sum(phase.seconds or 0 for phase in stage.phases.values()) == pytest.approx(stage.seconds, rel=1e-9)
    assert record.total.co2e_grams == pytest.approx(total / 3.6e6 * 56.039)
    assert record.total.cost == pytest.approx(total / 3.6e6 * 0.3)
    assert record.run.framework.startswith(framework.FRAMEWORK)
    assert record.run.status == "completed"
    assert energy.record_path == tmp_path / "energy.json"
    assert load_record(tmp_path) == record
    assert no_thread_lives()


def _provider(kind: str, folder: Path, service: Service) -> Any:
    """Return an intensity of 320 g CO2e/kWh of some kind, and who says so."""
    now = datetime.now(UTC)
    if kind == "a constant":
        return CarbonIntensity(320.0, "here", "our contract", 2026), "our contract"
    if kind == "a series":
        file = folder / "contract.csv"
        hours = [(now + timedelta(hours=i)).isoformat() for i in (-1, 0, 1)]
        file.write_text("\n".join(["time,g_per_kwh", *(f"{hour},320" for hour in hours)]), encoding="utf-8")
        return file, "contract.csv"
    if kind == "Electricity Maps":
        service.body = json.dumps({"carbonIntensity": 320})
        return ElectricityMaps("FR", token="secret", url=service.url), kind  # noqa: S106 - made up
    half_hour = {"to": (now + timedelta(minutes=20)).strftime("%Y-%m-%dT%H:%MZ"), "intensity": {"actual": 320}}
    service.body = json.dumps({"data": [half_hour]})
    return NationalGrid(url=service.url), kind


@pytest.mark.parametrize("kind", ["a constant", "a series", "Electricity Maps", "NESO Carbon Intensity API"])
def test_each_kind_of_intensity_serves_a_run(tmp_path: Path, kind: str) -> None:
    service = Service()
    try:
        provider, source = _provider(kind, tmp_path, service)
        while getattr(provider, "quote", None) and provider.quote(datetime.now(UTC)).provisional:
            time.sleep(0.01)  # the run is too short to wait for a service on a busy machine
        energy = energy_callback(tmp_path, carbon_intensity=provider)
        framework.Loops(tmp_path).fit([energy], epochs=1)
    finally:
        service.close()
    record = load_record(tmp_path)
    assert record.total.joules is not None
    assert record.total.co2e_grams == pytest.approx(record.total.joules / 3.6e6 * 320, rel=1e-6)
    assert (record.carbon.source, record.carbon.assumed) == (source, False)
    assert record.carbon.intensity_g_per_kwh == pytest.approx(320)
    assert "secret" not in (tmp_path / "energy.json").read_text(encoding="utf-8")


def test_tags_and_the_models_name_are_in_the_record(tmp_path: Path) -> None:
    energy = energy_callback(tmp_path, tags={"team": "vision"})
    framework.Loops(tmp_path).fit([energy], epochs=1)
    run = load_record(tmp_path).run
    assert run.tags == {"team": "vision"}
    assert re.fullmatch(framework.MODEL, run.model or "")


def test_several_fits_with_one_callback_go_on(tmp_path: Path) -> None:
    energy = energy_callback(tmp_path)
    loops = framework.Loops(tmp_path)
    loops.fit([energy], epochs=1)
    first = energy.record
    loops.fit([energy], epochs=1)
    second = energy.record
    assert second.run.id == first.run.id
    assert second.stages["train"].samples == 80
    assert (second.stages["train"].joules or 0) > (first.stages["train"].joules or 0)
    assert (second.total.joules or 0) > (first.total.joules or 0)
    assert load_record(tmp_path) == second


def test_a_new_callback_each_time_is_a_run_of_its_own_and_keeps_the_others_record(tmp_path: Path) -> None:
    loops = framework.Loops(tmp_path)
    runs = []
    for _ in range(2):
        energy = energy_callback(tmp_path)
        loops.fit([energy], epochs=1)
        runs.append(energy.record)
    assert runs[0].run.id != runs[1].run.id
    assert {run.stages["train"].samples for run in runs} == {40}
    assert load_record(tmp_path) == runs[1]
    assert load_record(tmp_path / f"energy-{runs[0].run.id[:8]}.json") == runs[0]


def test_a_copy_and_a_pickle_start_afresh_with_the_same_options(tmp_path: Path) -> None:
    energy = energy_callback(tmp_path, devices=["cpu-model:0"], location="FRA")
    framework.Loops(tmp_path).fit([energy], epochs=1)
    for other in (copy.deepcopy(energy), pickle.loads(pickle.dumps(energy))):  # noqa: S301 - our own
        with pytest.raises(ConfigurationError, match="no record yet in this process"):
            _ = other.record
        framework.Loops(tmp_path).fit([other], epochs=1)
        assert [device.id for device in other.record.devices] == ["cpu-model:0"]
        assert other.record.carbon.location == energy.record.carbon.location


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_interval": -0.1}, "sample_interval is -0.1 s; give seconds above 0"),
        ({"location": "Nowhere"}, "location 'Nowhere' is unknown"),
        ({"electricity_price": math.nan}, "electricity_price is nan"),
        ({"carbon_intensity": -1}, "carbon_intensity is -1"),
        ({"pue": 0.3}, "pue is 0.3"),
        ({"currency": "Euro"}, "currency is 'Euro'"),
        ({"devices": "nvml:0"}, "devices is 'nvml:0'"),
        ({"log_every_n_steps": -1}, "log_every_n_steps is -1"),
        ({"layers_every_n_steps": 0}, "layers_every_n_steps is 0; give a whole number of steps"),
        ({"batch_size_fn": 4}, "batch_size_fn is 4"),
        ({"count_fn": "len"}, "count_fn is 'len'"),
        ({"metrics": "few"}, "metrics is 'few'; give 'core'"),
        ({"tags": {"team": 7}}, "tags is {'team': 7}; give names with texts"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options_are_refused_in_one_sentence_when_the_callback_is_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EnergyCallback(**options)


def test_an_unknown_device_is_refused_before_training(tmp_path: Path, no_thread_lives: Callable[[], bool]) -> None:
    seen: list[int] = []
    with pytest.raises(ConfigurationError, match="No device matches 'nvml:7'"):
        framework.Loops(tmp_path).fit([energy_callback(tmp_path, devices=["nvml:7"])], after_batch=seen.append)
    assert seen == []
    assert no_thread_lives()


def test_an_output_directory_of_the_users_has_to_be_writable(tmp_path: Path, no_thread_lives: Callable[[], bool]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        framework.Loops(tmp_path).fit([energy_callback(tmp_path, output_dir=tmp_path / "file" / "x")])
    assert no_thread_lives()


def test_the_record_goes_to_a_url(tmp_path: Path) -> None:
    for _ in range(2):
        energy = energy_callback(tmp_path, output_dir="memory://bucket/run")
        framework.Loops(tmp_path).fit([energy], epochs=1)
        assert energy.record_path == "memory://bucket/run/energy.json"
        assert load_record("memory://bucket/run") == energy.record
        assert energy.record.run.status == "completed"
        assert not [warning for warning in energy.record.warnings if "memory://" in warning]
    system = fsspec.filesystem("memory")
    assert len(system.find("/bucket/run")) == 2
    system.rm("/bucket/run", recursive=True)


def test_a_url_that_cannot_be_reached_is_refused_before_training(tmp_path: Path, no_thread_lives: Callable[[], bool]) -> None:
    seen: list[int] = []
    with pytest.raises(ConfigurationError, match=r"nosuch://run/energy\.json cannot be reached: .*nosuch"):
        framework.Loops(tmp_path).fit([energy_callback(tmp_path, output_dir="nosuch://run")], after_batch=seen.append)
    assert seen == []
    assert no_thread_lives()


def test_two_callbacks_are_refused_before_training(tmp_path: Path, no_thread_lives: Callable[[], bool]) -> None:
    class Mine(EnergyCallback):  # type: ignore[misc, valid-type] - the class of the framework under test
        pass

    seen: list[int] = []
    for other in (energy_callback(tmp_path), Mine(verbose=False)):
        with pytest.raises((RuntimeError, ConfigurationError), match=framework.REFUSES_TWO):
            framework.Loops(tmp_path).fit([energy_callback(tmp_path), other], after_batch=seen.append)
    assert seen == []
    assert no_thread_lives()


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [(RuntimeError("mine"), "failed", "RuntimeError: mine"), (KeyboardInterrupt(), "stopped", "KeyboardInterrupt")],
    ids=["error", "interrupt"],
)
def test_an_exception_in_training_leaves_a_complete_record(
    tmp_path: Path, error: BaseException, status: str, reason: str, no_thread_lives: Callable[[], bool]
) -> None:
    def break_at_5(batch: int) -> None:
        if batch == 5:
            raise error

    energy = energy_callback(tmp_path)
    try:
        framework.Loops(tmp_path).fit([energy], after_batch=break_at_5)
    except (RuntimeError, KeyboardInterrupt, SystemExit):
        record = energy.record
    assert (record.run.status, record.run.reason) == (status, reason)
    assert record.run.ended_at is not None
    assert record.stages["train"].batches == 6
    assert load_record(tmp_path) == record
    assert no_thread_lives()


@pytest.mark.parametrize("everything", [False, True], ids=["plain", "parts, FLOPs and readings"])
def test_training_is_bit_for_bit_the_same(tmp_path: Path, *, everything: bool) -> None:
    """Weights, optimiser, random states, order of the data, logs and checkpoints, but for what is ours in them.

    So they are where batches are divided into parts, FLOPs are counted in a batch, which are exact, and raw readings are kept,
    by which the record is verified.
    """
    folders = [tmp_path / "without", tmp_path / "with"]
    for folder in folders:
        folder.mkdir()
    without = framework.trained(folders[0], [])
    energy = energy_callback(folders[1], parts=everything, count_flops=everything, raw_readings=everything)
    measured = framework.trained(folders[1], [energy])
    assert measured.keys() == without.keys()
    for name, value in without.items():
        assert measured[name] == value, name
    found = energy.record.verify()
    assert found.same is (True if everything else None), found
    for stage, products in zip(("train", "validate"), framework.FLOPS, strict=True) if everything else ():
        found = energy.record.stages[stage]
        if framework.COUNTED_BY is None:
            assert found.flops is None
            assert any(
                text.startswith(f"FLOPs of {stage} are unknown, as they are not counted") for text in energy.record.warnings
            )
            continue
        assert found.flops.method == framework.COUNTED_BY
        each = found.flops.per_sample
        assert each == products if framework.COUNTED_BY == "torch operators" else each > products  # XLA counts all operations
        assert found.flops.total == pytest.approx(found.samples * each)


def test_the_parts_of_batches_add_up_or_have_a_reason(tmp_path: Path) -> None:
    energy = energy_callback(tmp_path, parts=True)
    loops = framework.Loops(tmp_path)
    loops.fit([energy], samples=42, batch_size=4, validation=12, epochs=2)
    loops.test([energy], 13, 4)
    record = energy.record
    divided = record.stages["train"].phases["compute"]
    if divided.parts:
        assert {"forward", "backward", "optimizer", "other"} <= divided.parts.keys()
        assert sum(part.seconds or 0 for part in divided.parts.values()) == pytest.approx(divided.seconds)
        assert divided.parts_reason is None
    else:
        assert divided.parts_reason == f"Keras on {framework.BACKEND} runs the whole training step as one."
    others = [stage.phases["compute"] for name, stage in record.stages.items() if name in {"validate", "test"}]
    assert [(phase.parts, phase.parts_reason) for phase in others] == [({}, None)] * 2
    assert load_record(tmp_path) == record

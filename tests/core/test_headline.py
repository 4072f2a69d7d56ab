"""The headline of a run: six lines that say it all."""

import io
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.record.schema import DeviceRecord, PhaseRecord, RunRecord, StageRecord
from ml_energy_callbacks.report.headline import headline, headline_text, summary
from ml_energy_callbacks.report.quantities import money, percent, scaled
from ml_energy_callbacks.report.terminal import columns
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedPower

EXAMPLE = """\
Energy  2.27 kJ (0.63 Wh) in 124 s, 18 W mean, 0.30 g CO2e   estimated ±53 %
Train   86 %   77 mJ/sample   compute 95 %, data wait 3 %
Valid    8 %   35 mJ/sample   data wait 15 %: 24.5 J avoidable (more workers)
Other    6 %   test 65 mJ/sample, predict 42 mJ/sample
!       No location set: world average of 475 g/kWh. location="FRA"
Record  runs/a/energy.json   more: ml-energy report runs/a"""


def a_stage(joules: float | None, per_sample: float | None = None, **phases: float) -> StageRecord:
    """Return a stage that was estimated to ±10 %, with phases of which the joules are known well."""
    return StageRecord(
        joules=joules,
        seconds=10.0,
        batches=10,
        samples=None if per_sample is None else 1000,
        joules_per_sample=per_sample,
        mean_watts=None,
        relative_uncertainty=0.1,
        provenance="estimated",
        phases={
            name: PhaseRecord(
                joules=energy, seconds=1.0, relative_uncertainty=0.01, low_joules=0.99 * energy, high_joules=1.01 * energy
            )
            for name, energy in phases.items()
        },
        devices={} if joules is None else {"cpu-model:0": joules},
        co2e_grams=None,
        cost=None,
    )


def a_run(total: dict[str, Any] | None = None, **stages: StageRecord) -> RunRecord:
    with EnergyMeter(backends=[], verbose=False) as meter:
        pass
    record = meter.record
    record.devices = [
        DeviceRecord(
            id="cpu-model:0",
            name="Xeon",
            kind="cpu",
            backend="cpu_model",
            method="model",
            provenance="estimated",
            relative_uncertainty=0.53,
            update_period_s=None,
            joules=1.0,
            missing_s=0.0,
        )
    ]
    record.stages = stages
    joules = sum(stage.joules or 0.0 for stage in stages.values())
    facts: dict[str, Any] = {"joules": joules, "seconds": 124.0, "relative_uncertainty": 0.53, "provenance": "estimated"}
    record.total = replace(record.total, **{**facts, "co2e_grams": 475 * joules / 3.6e6, "lower_bound": False, **(total or {})})
    return record


def an_example() -> RunRecord:
    return a_run(
        train=a_stage(1952.0, 0.077, compute=1854.0, data_wait=59.0),
        validate=a_stage(182.0, 0.035, compute=154.0, data_wait=27.5),
        test=a_stage(100.0, 0.065),
        predict=a_stage(36.0, 0.042),
    )


def lines_of(record: RunRecord, path: Path | str | None = None) -> dict[str, str]:
    return {line.label: "; ".join(line.cells) for line in headline(record, path)}


def test_the_headline_has_total_stages_hint_gap_and_place() -> None:
    assert headline_text(headline(an_example(), Path("runs/a/energy.json"))) == EXAMPLE


def test_a_narrow_terminal_breaks_lines_between_words() -> None:
    text = headline_text(headline(an_example(), Path("runs/a/energy.json")), columns=40)
    assert max(map(len, text.splitlines())) <= 40
    assert "±53 %" in text
    assert "data wait 3 %" in text
    assert "ml-energy report" in text
    lines = headline_text(headline(an_example(), Path("energy_logs/demo/version_0/energy.json")), columns=80).splitlines()
    assert (len(lines), lines[-1]) == (6, "Record  more: ml-energy report energy_logs/demo/version_0")


def test_an_unknown_energy_is_unknown_and_not_zero() -> None:
    lines = lines_of(a_run({"joules": None, "co2e_grams": None, "provenance": None}, train=a_stage(None)))
    assert lines["Energy"] == "unknown, no device could be read in 124 s"
    assert lines["Train"] == "energy unknown, 10.0 s"
    assert "0 J" not in str(lines)


def test_a_run_that_ended_at_once_has_a_headline() -> None:
    lines = lines_of(a_run({"joules": 0.0, "seconds": 0.0}, train=a_stage(0.0)))
    assert lines["Energy"].startswith("0 J (0 Wh) in 0 s, 0 g CO2e")
    assert lines["Train"] == "-; samples unknown"


def test_a_phase_that_is_known_badly_is_an_interval() -> None:
    stage = a_stage(100.0, 0.1)
    stage.phases = {
        "compute": PhaseRecord(joules=60.0, seconds=9.0, relative_uncertainty=0.5, low_joules=30.0, high_joules=90.0),
        "data_wait": PhaseRecord(joules=None, seconds=1.0, relative_uncertainty=None, low_joules=-1.0, high_joules=9.0),
        "compile": PhaseRecord(joules=None, seconds=None, relative_uncertainty=None, reason="too short"),
    }
    assert lines_of(a_run(train=stage))["Train"].endswith("; compute 30 to 90 %, data wait 0 to 9 %")


def test_a_phase_of_which_nothing_is_known_is_left_out() -> None:
    stage = a_stage(100.0, 0.1)
    unknown = PhaseRecord(joules=None, seconds=9.0, relative_uncertainty=None, low_joules=0.0, high_joules=100.0)
    stage.phases = {"compute": unknown, "data_wait": unknown}
    assert lines_of(a_run(train=stage))["Train"] == "100 %; 100 mJ/sample"


def test_a_command_is_told_its_own_option() -> None:
    record = an_example()
    record.run = replace(record.run, framework="command")
    assert lines_of(record)["!"] == "No location set: world average of 475 g/kWh. --location FRA"


def test_a_record_of_an_earlier_release_has_intervals_from_its_uncertainty() -> None:
    stage = a_stage(100.0, 0.1)
    stage.phases = {
        "compute": PhaseRecord(joules=60.0, seconds=9.0, relative_uncertainty=0.5),
        "data_wait": PhaseRecord(joules=2.0, seconds=1.0, relative_uncertainty=0.1),
    }
    assert lines_of(a_run(train=stage))["Train"].endswith("; compute 30 to 90 %, data wait 2 %")


def test_a_run_of_predictions_has_a_line_for_them() -> None:
    lines = lines_of(a_run(predict=a_stage(50.0, 0.042), other=a_stage(50.0)))
    assert (lines["Predict"], lines["Other"]) == ("50 %; 42 mJ/sample", "50 %; outside of stages")
    assert lines_of(a_run(other=a_stage(50.0))).keys() == {"Energy", "!"}


def test_what_is_missing_is_said_once() -> None:
    record = an_example()
    record.run = replace(record.run, world_size=4, missing_ranks=[2, 3], status="failed", reason="RuntimeError: no memory")
    record.devices.append(replace(record.devices[0], id="nvml:a", joules=None))
    lines = lines_of(record)
    assert lines["Energy"].startswith("at least 2.27 kJ")
    assert lines["!"].split("; ") == [
        "Failed: RuntimeError: no memory",
        "Ranks 2 and 3 of 4 reported no data",
        "Missing, as never read: nvml:a",
        'No location set: world average of 475 g/kWh. location="FRA"',
    ]


def test_a_gpu_without_load_is_a_hint_about_the_first_stage() -> None:
    record = an_example()
    record.devices = [
        replace(
            record.devices[0], id=f"nvml:{i}", kind="gpu", method="energy_counter", relative_uncertainty=0.05, joules=joules
        )
        for i, joules in enumerate([1900.0, 370.0])
    ]
    for stage in record.stages.values():
        stage.devices = {"nvml:0": 1.0, "nvml:1": 1.0}
    assert lines_of(record)["Train"].endswith("1 of 2 GPUs nearly idle: up to 370 J avoidable")


def test_energies_of_samples_have_one_prefix() -> None:
    record = a_run(train=a_stage(61.0, 0.122), validate=a_stage(7.2, 0.072), predict=a_stage(1.0, 0.00098))
    lines = lines_of(record)
    assert [lines[name].split("; ")[1] for name in ("Train", "Valid", "Other")] == [
        "122 mJ/sample",
        "72 mJ/sample",
        "predict 0.98 mJ/sample",
    ]


def test_a_lower_bound_says_that_a_part_is_missing() -> None:
    lines = lines_of(a_run({"lower_bound": True}, train=a_stage(100.0, 0.077)))
    assert lines["Energy"].startswith("at least 100 J")
    assert lines["!"].startswith("Part of the energy is missing; ")


def test_a_long_reason_leaves_the_headline_short() -> None:
    record = an_example()
    record.run = replace(record.run, status="failed", reason="RuntimeError: " + "no memory " * 100)
    assert len(headline_text(headline(record), columns=80).splitlines()) <= 9


def test_nothing_in_a_name_is_a_control_sequence() -> None:
    record = an_example()
    record.run = replace(record.run, status="stopped", reason="\x1b[31m<script>alert(1)</script>\n[bold]x[/bold]")
    text = headline_text(headline(record, Path("runs\x1b]0;x\x07/[red]/energy.json")))
    assert len(text.splitlines()) == 6
    assert all(character.isprintable() for line in text.splitlines() for character in line)
    assert "<script>alert(1)</script> [bold]x[/bold]" in text


def test_a_url_shows_no_password() -> None:
    assert "secret" not in lines_of(an_example(), "s3://user:secret@bucket/run/energy.json")["Record"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0 J"),
        (1.5e-4, "150 uJ"),
        (0.0771, "77.1 mJ"),
        (0.63, "0.630 J"),
        (999.4, "999 J"),
        (999.9, "1.00 kJ"),
        (2271.0, "2.27 kJ"),
        (4.2e7, "42.0 MJ"),
        (1e20, "100,000,000 TJ"),
        (-0.05, "-50.0 mJ"),
    ],
)
def test_a_value_has_the_prefix_that_reads_well(value: float | None, text: str) -> None:
    assert scaled(value, "J") == text


def test_grams_become_kilograms_and_no_more() -> None:
    assert scaled(2.5e6, "g CO2e") == "2,500 kg CO2e"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0.00 EUR"), (0.00012, "0.00012 EUR"), (0.012, "0.01 EUR"), (1234.5, "1,234.50 EUR")],
)
def test_money_has_two_places_or_significant_ones(value: float | None, text: str) -> None:
    assert money(value, "EUR") == text


def test_a_small_share_is_not_shown_as_none() -> None:
    assert [percent(share) for share in (0.0, 0.001, 0.006, 0.5)] == ["0 %", "<1 %", "1 %", "50 %"]


def a_metered_loop(**options: Any) -> EnergyMeter:
    with EnergyMeter(backends=[], location="FRA", **options) as meter, meter.stage("train"):
        pass
    return meter


def test_a_meter_prints_the_headline_at_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meter = a_metered_loop(output_dir=tmp_path)
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == ["Energy", "Train", "Record"]
    assert " ".join(out.split()) == " ".join(summary(meter.record, meter.record_path, columns()).split())
    a_metered_loop(verbose=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("stream", ["closed", "ascii", "none"])
def test_no_output_stops_a_program(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    out = {"closed": io.StringIO(), "ascii": io.TextIOWrapper(raw, encoding="ascii", write_through=True), "none": None}[stream]
    if stream == "closed":
        out.close()
    monkeypatch.setattr("sys.stdout", out)
    curve = ScriptedPower(PowerCurve(monotonic_clock, 100), monotonic_clock)
    with EnergyMeter(backends=[ScriptedBackend([curve])], carbon_intensity=1) as meter:
        pass
    if stream == "ascii":
        assert b"+/-" in raw.getvalue()
    else:
        assert any("cannot be shown" in warning for warning in meter.record.warnings)


def test_a_record_shows_itself_in_a_line_and_in_six() -> None:
    record = an_example()
    assert repr(record) == (
        f"<RunRecord {record.run.id[:8]}: 2.27 kJ (0.63 Wh) in 124 s, 18 W mean, 0.30 g CO2e, estimated ±53 %>"
    )
    assert record.summary() == headline_text(headline(record))

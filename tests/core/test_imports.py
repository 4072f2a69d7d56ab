"""Logs of other tools as run records."""

import csv
import io
import json
import math
import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from command import ml_energy
from msgspec.structs import replace
from run_records import a_record

from ml_energy_callbacks import load_record
from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.fleet.imports import import_file
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report.export import Format, export
from ml_energy_callbacks.report.export.facts import Facts

LOGS = Path(__file__).parents[1] / "imported_logs"
KWH = 3.6e6


def _written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _only(path: Path) -> RunRecord:
    (record,) = import_file(path).records
    return record


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


# ------------------------------------------------------------------------------------------------------------ codecarbon


def test_states_of_one_codecarbon_run_count_once_and_the_last_is_its_total() -> None:
    rows = _rows(LOGS / "codecarbon_3.csv")
    records = import_file(LOGS / "codecarbon_3.csv").records
    assert [record.run.model for record in records] == ["resnet", "bert"]
    for record, row in zip(records, (rows[1], rows[3]), strict=True):
        assert record.run.id == row["run_id"].replace("-", "")
        assert record.total.seconds == float(row["duration"])
        assert record.total.kwh == pytest.approx(float(row["energy_consumed"]) / 1.2, rel=1e-15)  # without its PUE
        assert record.total.joules == pytest.approx(math.fsum(device.joules or 0 for device in record.devices))
        assert (record.total.co2e_grams or 0) / 1000 == float(row["emissions"])
        assert record.carbon.pue == 1.2
        assert record.imported is not None
        assert (record.imported.tool, record.imported.version, record.imported.rows) == ("codecarbon", "3.3.2", 2)
    assert [record.imported.line for record in records if record.imported] == [3, 5]


def test_what_codecarbon_does_not_know_is_unknown() -> None:
    record = import_file(LOGS / "codecarbon_3.csv").records[0]
    assert record.total.relative_uncertainty is None
    assert record.total.cost is None
    assert record.run.hostnames == []
    assert (record.carbon.water_litres, record.carbon.wue) == (None, None)  # a WUE of 0 is its default
    assert {device.id: device.missing_s for device in record.devices} == {"codecarbon:cpu": None, "codecarbon:ram": None}
    assert record.total.provenance == "estimated"


def test_codecarbon_tasks_are_parts_of_their_run() -> None:
    rows = _rows(LOGS / "codecarbon_3_tasks.csv")
    record = _only(LOGS / "codecarbon_3_tasks.csv")
    assert record.total.kwh == math.fsum(float(row["energy_consumed"]) for row in rows)
    parts = record.stages["other"].substages
    assert list(parts) == ["load", "train"]
    for row, part in zip(rows, parts.values(), strict=True):
        assert part.joules == float(row["energy_consumed"]) * KWH
        assert part.seconds == float(row["duration"])


@pytest.mark.parametrize("seed", range(20))
def test_export_import_export_is_the_same_byte_for_byte(tmp_path: Path, seed: int) -> None:
    made = a_record(joules=1e3 * 7**seed / 3**seed, seconds=100 / (seed + 0.3), devices=1 + seed % 5, seed=seed)
    made = replace(made, carbon=replace(made.carbon, pue=1 + seed / 23, wue=1.8, water_litres=seed / 7))
    text = export(made, Format.CODECARBON_CSV)
    record = _only(_written(tmp_path / "emissions.csv", text))
    assert export(record, Format.CODECARBON_CSV) == text
    assert record.total.kwh == pytest.approx(made.total.kwh, rel=1e-15)  # several have the same product with the PUE


@pytest.mark.parametrize("location", ["FRA", "US-VA", "SE3", "aws:eu-west-3", "lab:basement", None])
def test_export_import_export_keeps_the_place(tmp_path: Path, location: str | None) -> None:
    made = a_record()
    made = replace(
        made, carbon=replace(made.carbon, location=location), devices=[replace(d, joules=None) for d in made.devices]
    )
    text = export(made, Format.CODECARBON_CSV)
    assert export(_only(_written(tmp_path / "emissions.csv", text)), Format.CODECARBON_CSV) == text


_OLD = (
    "timestamp,project_name,run_id,duration,emissions,emissions_rate,cpu_power,gpu_power,ram_power,cpu_energy,gpu_energy,"
    "ram_energy,energy_consumed,country_name,country_iso_code,region,cloud_provider,cloud_region,os,python_version,"
    "codecarbon_version,cpu_count,cpu_model,gpu_count,gpu_model,longitude,latitude,ram_total_size,tracking_mode,on_cloud\n"
    "2023-05-04T10:00:00,old,5ca1e0ab-0000-4000-8000-000000000001,3600.5,0.0123,3.4e-06,42.5,300.0,5.0,0.0425,0.3,0.005,"
    "0.3475,France,FRA,ile-de-france,,,Linux,3.10.0,2.2.1,16,AMD EPYC,2,2 x NVIDIA A100,2.3,48.8,64,machine,N\n"
)


def test_headers_of_codecarbon_2_and_3_may_follow_each_other_in_one_file(tmp_path: Path) -> None:
    both = _written(tmp_path / "both.csv", _OLD + (LOGS / "codecarbon_3.csv").read_text(encoding="utf-8"))
    old, *new = import_file(both).records
    assert (old.imported.version if old.imported else None) == "2.2.1"
    assert [record.run.model for record in new] == ["resnet", "bert"]
    assert (old.total.kwh, old.carbon.pue) == (0.3475, 1.0)
    gpu = next(device for device in old.devices if device.kind == "gpu")
    assert (gpu.name, gpu.count, gpu.joules, gpu.provenance) == ("2 x NVIDIA A100", 2, 0.3 * KWH, "measured")


def _excel(text: str) -> str:
    """Return a file as a spreadsheet with a decimal comma writes it."""
    head, *rows = text.splitlines()
    return "\r\n".join([head.replace(",", ";"), *(row.replace(",", ";").replace(".", ",") for row in rows), ""])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_encodings_separators_and_decimal_commas(tmp_path: Path, encoding: str, separator: str) -> None:
    text = _OLD.replace(",old,", ",Modèle é,")
    if separator != ",":
        text = _excel(text).replace(";", separator)
    record = _only(_written(tmp_path / "emissions.csv", text.encode(encoding)))
    assert record.run.model == "Modèle é"
    assert (record.total.kwh, record.total.seconds) == (0.3475, 3600.5)


def test_lines_may_end_as_on_any_system(tmp_path: Path) -> None:
    for end in ("\r", "\r\n"):
        record = _only(_written(tmp_path / "emissions.csv", _OLD.replace("\n", end)))
        assert (record.total.kwh, record.imported.line if record.imported else None) == (0.3475, 2)


def test_a_first_line_that_tells_a_spreadsheet_the_separator_is_no_data(tmp_path: Path) -> None:
    record = _only(_written(tmp_path / "emissions.csv", "sep=;\r\n" + _excel(_OLD)))
    assert (record.total.kwh, record.imported.line if record.imported else None) == (0.3475, 3)


# ------------------------------------------------------------------------------------------------------------ nvidia-smi


def _smi(rows: Iterator[tuple[float, str, str]]) -> str:
    began = datetime.fromisoformat("2026-11-25T13:00:00")
    lines = [
        f"{began + timedelta(seconds=second):%Y/%m/%d %H:%M:%S.%f}"[:-3] + f", {gpu}, NVIDIA A100, {power}"
        for second, gpu, power in rows
    ]
    return "\n".join(["timestamp, index, name, power.draw [W]", *lines, ""])


def test_power_of_each_gpu_is_integrated_over_time(tmp_path: Path) -> None:
    rows = ((s + 0.002 * g, str(g), f"{100 * (g + 1) + s:.2f} W") for s in range(61) for g in range(2))
    record = _only(_written(tmp_path / "gpu.csv", _smi(rows)))
    assert [device.joules for device in record.devices] == [pytest.approx(60 * 130), pytest.approx(60 * 230)]
    assert record.total.joules == pytest.approx(60 * 360)  # a sum, no mean
    assert record.total.seconds == pytest.approx(60.002)
    assert (record.total.co2e_grams, record.total.relative_uncertainty) == (None, None)
    assert [device.missing_s for device in record.devices] == [0, 0]
    assert record.devices[0].update_period_s == pytest.approx(1)
    assert not record.lower_bound


def test_gaps_and_failed_readings_are_missing_and_not_filled(tmp_path: Path) -> None:
    rows = [(float(s), "0", "[N/A]" if s == 30 else "100.00 W") for s in range(61) if not 10 < s < 20]
    found = import_file(_written(tmp_path / "gpu.csv", _smi(iter(rows))))
    (record,) = found.records
    assert record.devices[0].missing_s == pytest.approx(10 + 2)
    assert record.total.joules == pytest.approx(48 * 100)
    assert record.total.seconds == pytest.approx(60)
    assert record.lower_bound
    assert any(note.startswith("Line 23: has no power") for note in found.notes)


def test_times_that_run_backwards_break_the_series(tmp_path: Path) -> None:
    rows = [*((float(s), "0", "100.00 W") for s in range(11)), *((float(s), "0", "100.00 W") for s in range(5, 16))]
    found = import_file(_written(tmp_path / "gpu.csv", _smi(iter(rows))))
    assert found.records[0].total.joules == pytest.approx(2000)
    assert found.records[0].total.seconds == pytest.approx(20)
    assert "Line 13: goes back in time; the energy between it and the row before is unknown." in found.notes


def test_each_header_begins_a_run_and_duplicate_rows_count_once(tmp_path: Path) -> None:
    one = _smi((float(s), "0", "100.00 W") for s in (0, 1, 2, 2))
    two = _smi((float(s) + 3600, "0", "50.00 W") for s in range(5))
    found = import_file(_written(tmp_path / "gpu.csv", one + two))
    assert [record.total.joules for record in found.records] == [200, 200]
    assert [record.imported.line for record in found.records if record.imported] == [2, 7]
    assert "Line 5: has the time of the row before of its device and is left out." in found.notes


def test_gpus_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    rows = ((s + 0.002 * g, str(g), "100.00 W") for s in range(20) for g in range(4))
    text = "\n".join(",".join(cell for i, cell in enumerate(line.split(",")) if i != 1) for line in _smi(rows).splitlines())
    with pytest.raises(RecordError, match="line 2: rows of several GPUs cannot be told apart; add index or uuid"):
        import_file(_written(tmp_path / "gpu.csv", text))


def test_long_logs_need_little_memory(tmp_path: Path, *, full: bool) -> None:
    count = 1_000_000 if full else 20_000
    path = tmp_path / "gpu.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("timestamp, index, power.draw [W]\n")
        began = datetime.fromisoformat("2026-11-25T13:00:00")
        file.writelines(f"{began + timedelta(seconds=s):%Y/%m/%d %H:%M:%S}.000, 0, 100.00 W\n" for s in range(count))
    tracemalloc.start()
    record = _only(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert record.total.joules == pytest.approx(100.0 * (count - 1))
    assert peak < 3e6


# ------------------------------------------------------------------------------------------------------------ carbontracker

_CARBONTRACKER = "sim_30867_2026-12-01T053005Z"


@pytest.mark.parametrize("ending", ["_carbontracker.log", "_carbontracker_output.log"])
def test_either_log_of_carbontracker_gives_its_run(ending: str) -> None:
    record = _only(LOGS / f"{_CARBONTRACKER}{ending}")
    assert record.imported is not None
    assert (record.imported.tool, record.imported.version) == ("carbontracker", "2.4.7")
    assert (record.total.kwh or 0) * 1.58 == pytest.approx(0.000391104437, rel=1e-15)
    assert record.total.co2e_grams == 0.174041474515
    assert record.carbon.pue == 1.58
    assert record.carbon.intensity_g_per_kwh == pytest.approx(445)
    assert {device.id: device.joules for device in record.devices} == {
        "carbontracker:gpu": pytest.approx(3.3 * 240),
        "carbontracker:cpu": pytest.approx(3.3 * 30),
    }
    assert record.total.joules == pytest.approx(3.3 * 270, rel=0.01)  # the simulation's; durations are rounded to 10 ms
    assert [epoch.joules for epoch in record.epochs] == [pytest.approx(1.1 * 270)] * 3


def test_carbontracker_totals_without_their_pue_are_refused(tmp_path: Path) -> None:
    text = (LOGS / f"{_CARBONTRACKER}_carbontracker_output.log").read_bytes()
    with pytest.raises(RecordError, match="line 1: its energy includes a PUE"):
        import_file(_written(tmp_path / "a_carbontracker_output.log", text))


def test_a_carbontracker_log_alone_has_the_sums_of_its_epochs(tmp_path: Path) -> None:
    text = (LOGS / f"{_CARBONTRACKER}_carbontracker.log").read_bytes()
    record = _only(_written(tmp_path / "a_carbontracker.log", text.replace(b"gpu: 240.0\n", b"gpu: None\n", 1)))
    assert record.total.joules == pytest.approx(2.2 * 240 + 3.3 * 30)
    assert (record.total.co2e_grams, record.lower_bound) == (None, True)
    assert record.devices[0].missing_s == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("processor", "provenance"), [("AMD EPYC 7742", "estimated"), ("cpu:0, dram:0", "measured"), ("Simulated CPU", "estimated")]
)
def test_a_processor_without_counter_is_estimated(tmp_path: Path, processor: str, provenance: str) -> None:
    text = (LOGS / f"{_CARBONTRACKER}_carbontracker.log").read_text(encoding="utf-8").replace("Simulated CPU", processor)
    text = text.replace("Simulated GPU", "NVIDIA A100")
    record = _only(_written(tmp_path / "a_carbontracker.log", text))
    assert {device.kind: device.provenance for device in record.devices} == {"gpu": "measured", "cpu": provenance}
    assert record.total.provenance == provenance


def test_powers_of_many_gpus_are_summed_over_broken_lines(tmp_path: Path) -> None:
    text = (LOGS / f"{_CARBONTRACKER}_carbontracker.log").read_text(encoding="utf-8")
    text = text.replace("gpu: 240.0", "gpu: [239.87654321 240.12345679 240.         240.\n 239.5        240.5       ]")
    record = _only(_written(tmp_path / "a_carbontracker.log", text))
    assert record.devices[0].joules == pytest.approx(3.3 * 6 * 240)
    assert not any("has no time" in note for note in record.warnings)


# ------------------------------------------------------------------------------------------------------------ Zeus


def test_zeus_windows_inside_others_count_once() -> None:
    record = _only(LOGS / "zeus.csv")
    rows = _rows(LOGS / "zeus.csv")
    outer = [row for row in rows if row["window_name"] != "epoch"]
    assert record.total.joules == math.fsum(float(row[f"gpu{gpu}_energy"]) for row in outer for gpu in (0, 1))
    assert record.total.seconds == math.fsum(float(row["elapsed_time"]) for row in outer)
    assert (record.total.joules or 0) / record.total.seconds == pytest.approx(450, rel=0.02)  # what was simulated
    assert list(record.stages["other"].substages) == ["training", "test"]
    assert [device.joules for device in record.devices] == [pytest.approx(810), pytest.approx(405)]
    assert record.run.started_at.startswith("2026-12-01T05:31:12.78")


def test_a_zeus_window_that_overlaps_another_is_left_out(tmp_path: Path) -> None:
    text = "start_time,window_name,elapsed_time,gpu0_energy\n100,a,10,1000\n105,b,10,900\n120,c,1,5\n"
    found = import_file(_written(tmp_path / "zeus.csv", text))
    assert (found.records[0].total.joules, found.records[0].lower_bound) == (1005, True)
    assert found.notes[0].startswith("Line 3: overlaps the window above")


def test_zeus_json_is_a_window_or_a_profile_of_power_limits(tmp_path: Path) -> None:
    assert _only(LOGS / "zeus_window.json").total.joules == 315
    profile = {"measurements": [{"power_limit": limit, "energy": limit * 9.5, "time": 10.0} for limit in (300, 200)]}
    records = import_file(_written(tmp_path / "profile.json", json.dumps(profile, indent=4))).records
    assert [record.total.joules for record in records] == [2850, 1900]
    assert [record.run.tags for record in records] == [{"power_limit_watts": "300"}, {"power_limit_watts": "200"}]


# ------------------------------------------------------------------------------------------------------------ SLURM


def test_steps_of_a_slurm_job_are_not_added_to_what_covers_them() -> None:
    found = import_file(LOGS / "sacct.txt")
    one, four, idle = found.records
    assert one.total.joules == 1_234_789  # extern, on all nodes for all of the job
    assert (four.total.joules, four.lower_bound) == (105_000_003, True)
    assert idle.total.joules is None  # 0 J are unknown
    assert [record.run.status for record in found.records] == ["completed", "failed", "completed"]
    assert [record.total.seconds for record in found.records] == [3600, 93600, 600]
    assert (four.run.job_id, four.run.hostnames, four.run.model) == ("4712", ["node[018-021]"], "train-bert")
    assert "Line 11: is a job that has not run and is left out." in found.notes


def test_columns_of_sacct_are_read_by_their_dashes(tmp_path: Path) -> None:
    text = (
        "JobID                      Start    Elapsed ConsumedEnergyRaw \n"
        "------------ ------------------- ---------- ----------------- \n"
        "4711         2026-11-25T13:00:00 1-00:00:01           1234567 \n"
        "4712         2026-11-25T13:00:00   00:00:01 18446744073709551614 \n"
    )
    one, other = import_file(_written(tmp_path / "sacct.txt", text)).records
    assert (one.total.joules, one.total.seconds, other.total.joules) == (1_234_567, 86_401, None)


def test_json_of_sacct_is_read_like_its_table(tmp_path: Path) -> None:
    found = import_file(LOGS / "sacct.json")
    one, four = found.records
    assert (one.total.joules, one.total.seconds, one.run.started_at) == (1_234_790, 3600, "2026-11-25T13:00:00+00:00")
    assert (one.run.framework, one.run.hostnames, one.run.model) == ("slurm 25.05.3", ["node017"], "train-resnet")
    assert (four.total.joules, four.lower_bound, four.run.status, four.run.reason) == (5_000_000, True, "failed", "TIMEOUT")
    assert [record.imported.line for record in found.records if record.imported] == [9, 23]
    assert "Line 35: is a job that has not run and is left out." in found.notes
    assert not any("UTC" in note for note in found.notes)  # its times have an offset
    older = (
        (LOGS / "sacct.json").read_text(encoding="utf-8").replace('{"set": true, "infinite": false, "number": 5000000}', "5e6")
    )
    older = older.replace('["COMPLETED"]', '"COMPLETED"').replace('"4712.0"', "0").replace('"start": 1795611600', '"start": 17')
    again = import_file(_written(tmp_path / "old.json", older)).records
    assert [record.total for record in again] == [record.total for record in found.records]
    assert [record.run.started_at for record in again] == [record.run.started_at for record in found.records]
    with pytest.raises(RecordError, match="line 1: the JSON is none of sacct"):
        import_file(_written(tmp_path / "cut.json", older[:-900]))


def test_a_slurm_table_without_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="line 1: the table lacks times; call sacct with --parsable2 --format="):
        import_file(_written(tmp_path / "sacct.txt", "JobID|ConsumedEnergyRaw\n1|5\n"))
    with pytest.raises(RecordError, match="line 1: the table lacks energy; call sacct with --parsable2 --format="):
        import_file(_written(tmp_path / "sacct.txt", "JobID|State|Start|ElapsedRaw\n1|COMPLETED|2026-11-25T13:00:00|5\n"))


# ------------------------------------------------------------------------------------------------------------ DCGM


def _dmon(*, prefix: bool, columns: str = "both") -> str:
    """Return the log of DCGM with the time before each line, or with its power alone."""
    lines, second = [], -1
    for line in (LOGS / "dcgmi_dmon.txt").read_text(encoding="utf-8").splitlines():
        second += line.startswith("GPU 0")
        own = line if columns == "both" else line[:24].rstrip()
        lines.append(f"{1_800_000_000 + second}.25 {own}" if prefix else own)
    return "\n".join([*lines, ""])


def test_dcgm_counters_are_exact_without_times() -> None:
    found = import_file(LOGS / "dcgmi_dmon.txt")
    (record,) = found.records
    assert [device.joules for device in record.devices] == [pytest.approx(29 * 107), pytest.approx(29 * 207)]
    assert record.total.seconds == pytest.approx(29, rel=0.02)
    assert found.notes[0].startswith("It has no times: its length is the energy by the counter over the mean power")


def test_dcgm_lines_with_times_are_integrated(tmp_path: Path) -> None:
    both = _only(_written(tmp_path / "both.txt", _dmon(prefix=True)))
    power = _only(_written(tmp_path / "power.txt", _dmon(prefix=True, columns="power")))
    assert [device.method for device in (*both.devices, *power.devices)] == ["energy_counter"] * 2 + ["power_integration"] * 2
    assert both.total.joules == pytest.approx(29 * 314)
    assert power.total.joules == pytest.approx(29 * (107.25 + 207.25))
    assert (both.total.seconds, power.total.seconds) == (29, 29)
    assert both.run.started_at == "2027-01-15T08:00:00.250000+00:00"


def test_dcgm_power_without_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="line 3: the lines have no times, without which power is no energy"):
        import_file(_written(tmp_path / "power.txt", _dmon(prefix=False, columns="power")))


def test_parts_of_gpus_and_failed_reads_of_dcgm_are_noted(tmp_path: Path) -> None:
    text = "#Entity POWER\nID W\n" + "".join(
        f"2026-11-25T13:00:0{s} GPU 0 {'N/A' if s == 3 else '100.0'}\n2026-11-25T13:00:0{s} GPU-I 0 50.0\n" for s in range(8)
    )
    found = import_file(_written(tmp_path / "power.txt", text))
    assert (found.records[0].total.joules, found.records[0].devices[0].missing_s) == (500, 2)
    assert any("Line 9: has no power" in note for note in found.notes)
    assert any("Lines 4, 6, 8 and 5 more: is a part of a GPU" in note for note in found.notes)


# ------------------------------------------------------------------------------------------------------------ MLPerf


def test_each_mark_of_a_power_log_of_mlperf_is_a_run() -> None:
    found = import_file(LOGS / "spl.txt")
    assert [record.run.model for record in found.records] == [
        "2026-11-25_13-00-02_loadgen_ranging",
        "2026-11-25_13-00-02_loadgen_testing",
    ]
    assert [record.total.joules for record in found.records] == [pytest.approx(1050), pytest.approx(1550)]
    assert found.records[0].run.started_at == "2026-11-25T13:01:00.140000+00:00"
    assert found.records[0].devices[0].name == "YOKOGAWA,WT310,C2PH13047V,F1.03"
    assert "Rows of the mark notset are outside of all measurements and are left out." in found.notes


def test_a_power_log_of_several_channels_has_their_sum_first(tmp_path: Path) -> None:
    row = (
        "Time,11-13-2026 22:38:{:02}.240,Watts,{},Volts,-1,Amps,-1,PF,-1,Mark,notset,Ch1,Watts,91.06,Volts,120.95,Amps,0.8,"
        "PF,0.94,Ch2,Watts,90.97,Volts,120.83,Amps,0.80,PF,0.94\n"
    )
    text = "".join(row.format(s, "-1.0" if s == 5 else "182.03") for s in range(10)) + row.format(10, "182.03")[:60]
    found = import_file(_written(tmp_path / "spl.txt", text))
    assert found.records[0].total.joules == pytest.approx(7 * 182.03)
    assert found.records[0].devices[0].missing_s == 2
    assert "Line 11: has no end, so that it may be cut off, and is left out." in found.notes


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b\n1,2\n", "line 1: this is no log of a known tool"),
        ("DATETIME,GAS,CARBON_INTENSITY\n", "line 1: this is a series of carbon intensities; pass it as carbon_intensity"),
        ("Nov 25\0\0\1\n", "line 1: this is no text"),
        (_OLD.splitlines()[0] + "\n", "has no run of codecarbon. There is nothing after the header, line 1"),
        (_OLD[:-40], "has no run of codecarbon. Line 2: has 24 of 30 cells and is left out"),
        (_OLD.replace("3600.5", "abc"), "Line 2: duration is 'abc', which is no number; the row is left out"),
        (_OLD.replace("3600.5", "-1"), "Line 2: duration is '-1', which is no duration; the row is left out"),
        (_OLD.replace("2023-05-04T10", "05/04/2023 10"), "Line 2: '05/04/2023 10:00:00' is no time; the row is left out"),
        (_OLD.replace("0.3475,", "1e999,"), "Line 2: energy_consumed is '1e999', which is no number; the run is left out"),
        (_OLD.replace("0.0123,", "-0.0123,"), "line 2 is not a complete run record: Expected `float` >= "),
        (_OLD.replace("0.3475,", "3475e9,"), "line 2 is not a run record: no run uses 1.251e+19 J in 3600.5 s"),
        ("index, power.draw [W]\n0, 100 W\n", "line 2: the table has no column timestamp; add it to --query-gpu"),
        ('{"gpu_energy": 3}', "line 1: the JSON is no measurement of Zeus"),
        ('{"gpu_energy": {"0": -3}, "time": 1}', "line 1: the JSON is no measurement of Zeus"),
    ],
)
def test_bad_input_is_one_sentence_with_the_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RecordError) as caught:
        import_file(_written(tmp_path / "log.csv", text))
    assert says in str(caught.value)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"is a directory; give the files in it\.$"):
        import_file(tmp_path)


def test_half_a_line_and_duplicate_rows_are_noted(tmp_path: Path) -> None:
    text = (LOGS / "codecarbon_3.csv").read_text(encoding="utf-8")
    head, *rows = text.splitlines(keepends=True)
    found = import_file(_written(tmp_path / "log.csv", "".join([head, rows[0], rows[1], rows[1], rows[0], rows[2][:50]])))
    assert found.notes[:3] == [
        "Line 4: repeats an earlier row and counts once.",
        "Line 5: is an earlier state of its run than a row above and is left out.",
        "Line 6: has 3 of 38 cells and is left out.",
    ]
    assert found.records[0].total.seconds == float(rows[1].split(",")[4])


def test_notes_and_parts_of_long_files_are_bounded(tmp_path: Path) -> None:
    head, row = (LOGS / "codecarbon_3_tasks.csv").read_text(encoding="utf-8").splitlines()[:2]
    faults = [row.replace("1.2006168789994263", f"{number}x") for number in range(500)]
    tasks = [row.replace("load", f"step {number}") for number in range(101)]
    found = import_file(_written(tmp_path / "log.csv", "\n".join([head, *tasks, *faults, ""])))
    assert len(found.notes) < 60
    assert found.notes[-1] == "The same applies to 450 further lines, each with other figures."
    assert found.records[0].total.kwh == pytest.approx(101 * 4.00346013944626e-05)
    assert found.records[0].stages["other"].substages == {}


@pytest.mark.parametrize("name", ["zeus.csv", "sacct.txt", "dcgmi_dmon.txt", "spl.txt", f"{_CARBONTRACKER}_carbontracker.log"])
def test_a_figure_that_is_cut_off_at_the_end_does_not_count(tmp_path: Path, name: str) -> None:
    whole = (LOGS / name).read_text(encoding="utf-8")
    last = whole.rstrip("\n").rpartition("\n")[0] + "\n"
    cut = import_file(_written(tmp_path / name, whole[:-3]))
    without = import_file(_written(tmp_path / name, last))
    assert any(note.startswith(f"Line {whole.count(chr(10))}: has ") for note in cut.notes)  # no end, or too few cells
    totals = [[(record.total.joules, len(record.stages)) for record in found.records] for found in (cut, without)]
    assert totals[0] == totals[1]


# ------------------------------------------------------------------------------------------------------------ the command


def test_the_command_writes_records_and_goes_on_after_a_bad_file(tmp_path: Path) -> None:
    bad = _written(tmp_path / "bad.txt", "hello\n")
    pair = [LOGS / f"{_CARBONTRACKER}_carbontracker{ending}.log" for ending in ("", "_output")]
    done = ml_energy("import", LOGS / "codecarbon_3.csv", bad, *pair, "--output", tmp_path / "out", columns=120)
    assert done.returncode == 2
    assert f"ml-energy: {bad}, line 1: this is no log of a known tool" in done.stderr
    written = sorted((tmp_path / "out").glob("*/energy.json"))
    assert len(written) == 3
    assert done.stdout.count("carbontracker 2.4.7") == 1
    record = load_record(written[0])
    assert record.run.record_path == str(written[0])
    assert record.warnings == ["Its times have no offset; they are read as UTC."]
    report = ml_energy("report", tmp_path / "out", "--by", "framework", columns=120)
    assert (report.returncode, "codecarbon 3.3.2" in report.stdout) == (0, True)
    facts = json.loads(ml_energy("import", LOGS / "zeus.csv", "--output", tmp_path / "out", "--json").stdout)
    assert facts[0]["imported"]["tool"] == "zeus"


def test_every_record_is_read_and_shown_like_any_other(tmp_path: Path) -> None:
    logs = sorted(path for path in LOGS.iterdir() if path.suffix != ".md")
    assert ml_energy("import", *logs, "--output", tmp_path).returncode == 0
    written = sorted(tmp_path.glob("*/energy.json"))
    assert len(written) == 14
    for path in written:
        shown = ml_energy("report", "-v", path)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "±" not in shown.stdout  # nobody knows how sure another tool is
        record = load_record(path)
        assert record.total.relative_uncertainty is None
        assert all(device.relative_uncertainty is None for device in record.devices)
        if record.total.joules is not None:
            summed = math.fsum(device.joules or 0 for device in record.devices)
            assert record.total.joules == pytest.approx(summed, rel=0.01)  # carbontracker rounds the epochs' durations
    assert ml_energy("report", tmp_path, "--html", tmp_path / "page.html").returncode == 0


def test_exports_name_the_tool_that_measured(tmp_path: Path) -> None:
    record, named = _only(_written(tmp_path / "emissions.csv", _OLD)), "imported from codecarbon 2.2.1"
    facts = Facts(model="m", task="text", data_type="text", infrastructure="other")
    report = json.loads(export(record, Format.BOAMPS, facts))
    assert [(each["measurementMethod"], each["version"]) for each in report["measures"]] == [("codecarbon", "2.2.1")]
    assert named in report["task"]["taskDescription"]
    components = {each["componentType"]: each["nbComponent"] for each in report["infrastructure"]["components"]}
    assert components == {"cpu": 1, "gpu": 2, "ram": 1}
    assert named in export(record, Format.MODEL_CARD, facts)
    assert named in export(record, Format.CYCLONEDX, facts)
    items = json.loads(export(record, Format.EU_GPAI_JSON, facts))
    assert named in items["training_energy"]["method"]
    assert items["training_energy"]["mwh_low"].startswith("N/A")
    assert items["training_time"]["hardware_days"] == pytest.approx(2 * items["training_time"]["wall_clock_days"])


def test_runs_of_unknown_uncertainty_differ_by_nothing_certain(tmp_path: Path) -> None:
    other = _OLD.replace("AMD EPYC", "Intel Xeon").replace("0.3475,France", "0.4,France").replace("0.0425,0.3,", "0.095,0.3,")
    paths = [_written(tmp_path / "a.csv", _OLD), _written(tmp_path / "b.csv", other)]
    assert ml_energy("import", *paths, "--output", tmp_path / "out").returncode == 0
    facts = json.loads(ml_energy("diff", *sorted((tmp_path / "out").iterdir()), "--json").stdout)
    assert facts["total"]["difference"]["verdict"] == "undecided"

"""The page of `ml-energy report --html`, as a file: what it carries, its size, and bad input."""

import json
import platform
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from command import ml_energy
from msgspec.structs import replace
from run_records import a_record

from ml_energy_callbacks import EnergyMeter, RunRecord
from ml_energy_callbacks.record.load import dump_json
from ml_energy_callbacks.record.schema import PowerSeries
from ml_energy_callbacks.report.diff import diff_runs
from ml_energy_callbacks.report.drawing import to_html
from ml_energy_callbacks.report.page import run_page, runs_page
from ml_energy_callbacks.report.page.runs import difference, short_names
from ml_energy_callbacks.report.page.tables import amounts
from ml_energy_callbacks.report.pictures import best_value, energy_points, monitored, more_is_better, power_areas


class Parsed(HTMLParser):
    """The elements of a page, and the texts of those with an id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self._script: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._script = dict(attrs).get("id") or "page" if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._script = None


def write(folder: Path, record: RunRecord) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy.json").write_text(dump_json(record))
    return folder


def test_page_carries_the_record_unchanged() -> None:
    record = a_record(model="</script><script>alert(1)</script><!--<script>")
    carried = Parsed(run_page(record)).scripts["run-record"]
    assert msgspec.json.decode(carried, type=RunRecord) == record


def test_large_record_is_carried_with_fewer_longer_epochs_and_slices() -> None:
    record = a_record(epochs=1000, slices=2000, devices=10)
    page = run_page(record)
    carried = msgspec.json.decode(Parsed(page).scripts["run-record"], type=RunRecord)
    assert (carried.stages, carried.total, carried.devices) == (record.stages, record.total, record.devices)
    assert 50 < len(carried.epochs) < len(record.epochs)
    assert 50 < len(carried.power["gpu:0"].mean) < len(record.power["gpu:0"].mean)
    assert sum(epoch.joules or 0.0 for epoch in carried.epochs) == pytest.approx(
        sum(epoch.joules or 0.0 for epoch in record.epochs)
    )
    assert "are merged to fewer, longer ones" in page
    assert len(page.encode()) <= 300_000


def test_page_has_one_script_of_its_own_and_loads_nothing() -> None:
    found = Parsed(run_page(a_record()))
    assert set(found.scripts) == {"run-record", "page"}
    assert not {"img", "link", "iframe", "object"} & set(found.tags)


def test_page_is_the_same_for_the_same_record() -> None:
    assert run_page(a_record()) == run_page(a_record())


def test_page_says_how_to_repeat_the_run() -> None:
    with EnergyMeter(backends=[], verbose=False, location="FRA", pue=1.2, tags={"team": "vision"}) as meter:
        pass
    record = meter.record
    assert record.run.options == {"location": "'FRA'", "pue": "1.2"}
    assert record.run.versions["python"] == platform.python_version()
    page = run_page(record)
    assert "location='FRA', pue=1.2" in page
    assert f"python {platform.python_version()}, ml-energy-callbacks " in page


def test_lower_bound_is_marked_where_a_report_marks_it() -> None:
    record = a_record()
    least = replace(record, total=replace(record.total, lower_bound=True))
    page = run_page(least)
    for figure in ("≥7.20", "≥112.0", "≥0.00060", "at least 0.112 g CO2e", "at least 2.00 Wh", "at least 99.5 mg CO2e"):
        assert figure in page
    several = runs_page([("a/energy.json", record), ("b/energy.json", least)])
    assert [f">{figure}<" in several for figure in ("2.00", "≥2.00", "112", "≥112")] == [True] * 4
    assert "at least 4.00 Wh in all" in several
    assert "≥" not in run_page(record)


def test_both_ends_of_a_range_have_one_prefix() -> None:
    record = a_record(joules=1000 / 0.85 / 0.8)
    compute = record.stages["train"].phases["compute"]
    compute.low_joules, compute.high_joules = 980.0, 1020.0
    page = run_page(record)
    assert "0.980 to 1.020</td>" in page
    assert "95 %: 0.98 to 1.02 kJ</title>" in page


@pytest.mark.parametrize(
    ("mean", "missing", "seconds", "ends"),
    [
        ([10.0, 10.0, 10.0], 0.0, 2.5, [1.0, 2.0, 2.5]),  # the last slice is shorter
        ([10.0, None, 10.0], 1.0, 3.0, [1.0, 2.0, 3.0]),
        ([10.0], 0.0, 0.5, [0.5]),
    ],
)
def test_cumulative_energy_ends_with_the_total(
    mean: list[float | None], missing: float, seconds: float, ends: list[float]
) -> None:
    record = a_record(joules=25.0, seconds=seconds, devices=1)
    record.devices[0].missing_s = missing
    record.power = {"gpu:0": PowerSeries(slice_s=1.0, mean=mean, low=mean, high=mean)}
    points = energy_points(record)
    assert [point.x for point in points] == [0.0, *ends]
    assert points[-1].y == pytest.approx(25.0)
    assert "M58,232l" in to_html(power_areas(record)) or len(mean) > 1  # an area, from the start on


def test_page_of_many_runs_has_the_first_as_baseline() -> None:
    runs = [(f"runs/{i}/energy.json", a_record(seed=i, epochs=2, slices=10)) for i in range(100)]
    page = runs_page(runs)
    assert "The baseline is the first run." in page
    assert "differences" not in Parsed(page).scripts
    assert len(page.encode()) <= 300_000


def test_difference_of_unknown_energy_is_unknown() -> None:
    record = a_record(seed=1)
    unknown = replace(record, total=replace(record.total, joules=None))
    assert difference(a_record(), unknown).kind == "unknown"
    assert difference(unknown, a_record()).kind == "unknown"
    assert difference(record, record).text == "baseline"


def test_difference_is_that_of_ml_energy_diff() -> None:
    baseline, record = a_record(), a_record(seed=1, joules=20_000, devices=3)
    change = diff_runs(baseline, record).total.difference
    found = difference(baseline, record)
    assert change is not None
    assert (found.kind, found.value) == (change.verdict, pytest.approx((change.joules or 0.0) / 7200))
    assert found.text == "+178 % (+163 % to +193 %)"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a/energy.json", "runs/b/energy.json"], ["a", "b"]),
        (["runs/a/energy.json", "runs/b/c/energy.json"], ["a", "b/c"]),
        (["runs/a/energy.json", "runs/a/energy-12345678.json"], ["energy.json", "energy-12345678.json"]),
        (["s3://bucket/a/energy.json", "s3://bucket/b/energy.json"], ["a", "b"]),
        (["energy.json", "b/energy.json"], ["energy.json", "b"]),
    ],
)
def test_runs_are_named_by_what_tells_them_apart(paths: list[str], names: list[str]) -> None:
    assert short_names(paths) == names


@pytest.mark.parametrize(
    ("values", "heading", "cells"),
    [
        ([1950.0, 182.0, None], "Energy,\u00a0kJ", ["1.95", "0.18", "-"]),
        ([137.0, 0.81], "Energy,\u00a0J", ["137.0", "0.8"]),
        ([7.5, 1e-9], "Energy,\u00a0J", ["7.500", "<0.001"]),
        ([None], "Energy,\u00a0J", ["-"]),
        ([0.0], "Energy,\u00a0J", ["0"]),
    ],
)
def test_column_has_one_prefix_and_the_same_decimals(values: list[float | None], heading: str, cells: list[str]) -> None:
    column = amounts("Energy", values, "J")
    assert (column.heading, column.cells) == (heading, cells)


def test_monitored_metric_is_that_of_validation() -> None:
    assert monitored([a_record()]) == "val_acc"
    assert best_value(a_record(accuracy=0.9), "val_acc") == pytest.approx(0.9 * (1 - 2.718281828**-5))
    assert monitored([a_record(epochs=0)]) is None


@pytest.mark.parametrize(
    ("name", "better"),
    [("val_loss", False), ("val/acc", True), ("eval_f1", True), ("test_wer", False), ("val_perplexity", False), ("lr", None)],
)
def test_name_of_a_metric_tells_which_is_better(name: str, *, better: bool | None) -> None:
    assert more_is_better(name) is better


def test_command_writes_the_page_of_one_run(tmp_path: Path) -> None:
    done = ml_energy("report", "--html", "run.html", write(tmp_path / "a", a_record()), folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "run.html\n", "")
    assert "<h1>ResNet</h1>" in (tmp_path / "run.html").read_text()


def test_command_names_the_files_that_are_no_records(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / "runs" / str(i), a_record(seed=i))
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    (broken / "energy.json").write_text("{")
    future = json.loads(dump_json(a_record())) | {"schema_version": 99}
    write(tmp_path / "runs" / "future", a_record())
    (tmp_path / "runs" / "future" / "energy.json").write_text(json.dumps(future))
    done = ml_energy("report", "--html", "runs.html", "runs", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "runs.html").read_text()
    assert "Energy of 2 runs" in page
    assert "Not included, damaged or not a run record: 1 (runs/broken/energy.json)." in page
    assert "Not included, schema version not supported by this release: 1 (runs/future/energy.json)." in page


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--html", "missing/page.html"], "the folder missing does not exist"),
        (["--html", "page.html", "--json"], "leave out --by, --csv, --parquet, --json and --verbose"),
    ],
)
def test_page_that_cannot_be_written_is_one_sentence(tmp_path: Path, options: list[str], sentence: str) -> None:
    done = ml_energy("report", *options, write(tmp_path / "a", a_record()), folder=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_page_of_no_record_is_one_sentence(tmp_path: Path) -> None:
    done = ml_energy("report", "--html", "page.html", tmp_path, folder=tmp_path)
    assert done.returncode == 2
    assert "There is no run record at" in done.stderr
    assert not (tmp_path / "page.html").exists()

"""Many run records, grouped."""

import contextlib
import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import msgspec
import pytest
from command import COMMAND, hide, ml_energy
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from privilege import unprivileged
from rich.console import Console

from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.fleet import (
    Fleet,
    Group,
    Row,
    check_by,
    check_output,
    find_files,
    group_rows,
    is_run,
    read_runs,
    render_fleet,
)
from ml_energy_callbacks.record.load import dump_json, load_record
from ml_energy_callbacks.record.schema import DeviceRecord, Part, RunRecord, StageRecord
from ml_energy_callbacks.report.lifecycle import load_records

ROOT = Path(__file__).parents[2]
KWH = 3.6e6

report = partial(ml_energy, "report")


def a_device(joules: float, *, estimated: bool) -> DeviceRecord:
    return DeviceRecord(
        id="model:0" if estimated else "counter:0",
        name="a device",
        kind="cpu",
        backend="scripted",
        method="model" if estimated else "energy_counter",
        provenance="estimated" if estimated else "measured",
        relative_uncertainty=0.1,
        update_period_s=None,
        joules=joules,
        missing_s=0.0,
    )


def a_stage(joules: float, samples: int | None, *, compiling: float = 0.0, compile_samples: int = 0) -> StageRecord:
    return StageRecord(
        joules=joules,
        seconds=1.0,
        batches=1,
        samples=samples,
        joules_per_sample=None if samples is None else (joules - compiling) / (samples - compile_samples),
        mean_watts=joules,
        relative_uncertainty=0.1,
        provenance="measured",
        phases={},
        devices={},
        co2e_grams=None,
        cost=None,
        compile_samples=compile_samples,
    )


class Folder:
    """A directory of run records."""

    def __init__(self, path: Path, empty: RunRecord) -> None:
        self.path, self.empty, self.count = path, empty, 0

    def add(
        self,
        kwh: float | None,
        *,
        estimated: float = 0.0,
        doubt: float | None = 0.1,
        cost: float | None = None,
        currency: str = "USD",
        stages: dict[str, StageRecord] | None = None,
        seconds: float = 10.0,
        assumed: bool = False,
        folder: Path | None = None,
        **run: Any,
    ) -> Path:
        """Write a run of so many kWh, a share of it estimated, into a directory of its own."""
        self.count += 1
        record = self.empty
        joules = None if kwh is None else kwh * KWH
        run = {"id": f"{self.count:032x}", "started_at": "2026-11-25T10:00:00+01:00", **run}
        found = replace(
            record,
            run=replace(record.run, **run),
            stages=stages or {},
            devices=[]
            if joules is None
            else [a_device(joules * (1 - estimated), estimated=False), a_device(joules * estimated, estimated=True)],
            total=replace(
                record.total,
                joules=joules,
                seconds=seconds,
                relative_uncertainty=None if joules is None else doubt,
                co2e_grams=None if kwh is None else kwh * 100,
                cost=cost,
                currency=currency,
            ),
            carbon=replace(record.carbon, assumed=assumed),
        )
        file = (folder or self.path / f"run{self.count}") / "energy.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dump_json(found))
        return file


@pytest.fixture
def runs(tmp_path: Path, empty: RunRecord) -> Folder:
    return Folder(tmp_path / "runs", empty)


def groups(runs: Folder, *by: str) -> dict[Any, Group]:
    """Return the groups by their values, and the group of all runs by None."""
    rows = read_runs(find_files([str(runs.path)], pytest.fail)).rows
    found = {tuple(group.by.values()): group for group in group_rows(rows, check_by(by))}
    return {(key[0] if len(key) == 1 else key): group for key, group in found.items()} | {None: group_rows(rows, [])[0]}


def test_sums_are_over_the_runs_that_know_and_say_how_many_do_not(runs: Folder) -> None:
    runs.add(1.0, status="completed")
    runs.add(3.0, estimated=0.5, doubt=0.5, status="completed", assumed=True)
    runs.add(None, status="completed")
    runs.add(None, status="failed")
    found = groups(runs, "status")
    assert list(found) == ["completed", "failed", None]
    group = found["completed"]
    assert (group.runs, group.kwh, group.kwh_unknown) == (3, pytest.approx(4.0), 1)
    # The errors of runs add up: 0.1 kWh and 1.5 kWh.
    assert group.relative_uncertainty == pytest.approx(1.6 / 4)
    assert group.estimated_share == pytest.approx(1.5 / 4)
    assert (group.co2e_grams, group.co2e_unknown, group.co2e_assumed) == (pytest.approx(400), 1, 1)
    assert (group.cost, group.cost_unknown) == ({}, 3)
    nothing = found["failed"]
    assert (nothing.kwh, nothing.relative_uncertainty, nothing.estimated_share, nothing.co2e_grams) == (None,) * 4
    assert (found[None].runs, found[None].kwh, found[None].kwh_unknown) == (4, pytest.approx(4.0), 2)


def test_a_run_whose_energy_is_not_all_there_makes_its_sums_lower_bounds(runs: Folder) -> None:
    runs.add(1.0, cost=0.3, world_size=3, missing_ranks=[2])
    unread = runs.add(2.0, cost=0.6)
    record = load_record(unread)
    unread.write_text(dump_json(replace(record, devices=[*record.devices, replace(record.devices[0], joules=None)])))
    runs.add(4.0, cost=1.2)
    total = groups(runs)[None]
    assert (total.kwh, total.kwh_unknown, total.co2e_unknown, total.cost_unknown) == (pytest.approx(7.0), 2, 2, 2)


def test_an_unknown_uncertainty_of_a_run_is_unknown_of_its_group_but_not_where_it_used_nothing(runs: Folder) -> None:
    runs.add(1.0, model="A")
    runs.add(0.0, doubt=None, model="A")
    runs.add(1.0, doubt=None, model="B")
    found = groups(runs, "model")
    assert found["A"].relative_uncertainty == pytest.approx(0.1)
    assert found["B"].relative_uncertainty is None


def test_costs_are_kept_apart_by_currency(runs: Folder) -> None:
    runs.add(1.0, cost=0.3, currency="EUR", model="A")
    runs.add(1.0, cost=0.2, currency="USD", model="A")
    runs.add(1.0, cost=0.5, currency="EUR", model="A")
    runs.add(1.0, cost=0.7, currency="EUR", model="B")
    runs.add(1.0, currency="EUR", model="B")
    found = groups(runs, "model")
    assert (found["A"].cost, found["A"].cost_unknown) == ({"EUR": pytest.approx(0.8), "USD": pytest.approx(0.2)}, 0)
    assert (found["B"].cost, found["B"].cost_unknown) == ({"EUR": pytest.approx(0.7)}, 1)
    assert found[None].cost == {"EUR": pytest.approx(1.5), "USD": pytest.approx(0.2)}


Known = st.none() | st.floats(0, 1e9)


@st.composite
def a_row(draw: st.DrawFn) -> Row:
    """Return a run of which anything may be unknown."""
    joules, cost = draw(Known), draw(Known)
    stages: dict[str, Any] = {}
    for stage in ("train", "predict"):
        for joules_of, number in (("joules", "samples"), ("token_joules", "tokens")):
            counted = draw(st.booleans())
            stages[f"{stage}_{joules_of}"] = draw(st.floats(0, 1e6)) if counted else None
            stages[f"{stage}_{number}"] = draw(st.integers(1, 10**6)) if counted else None
        counts = (stages[f"{stage}_samples"], stages[f"{stage}_tokens"])
        stages[f"{stage}_relative_uncertainty"] = None if counts == (None, None) else draw(st.none() | st.floats(0, 2))
    return Row(
        file="energy.json",
        run_id="0",
        started_at="2026-11-25T10:00:00+01:00",
        month=draw(st.sampled_from([None, "2026-11", "2026-12"])),
        status=draw(st.sampled_from(["completed", "failed", "running"])),
        framework="none",
        host="a",
        world_size=1,
        model=draw(st.sampled_from([None, "", "Net"])),
        tags=None,
        seconds=1.0,
        joules=joules,
        relative_uncertainty=None if joules is None else draw(st.none() | st.floats(0, 2)),
        incomplete=draw(st.booleans()),
        estimated_joules=None if joules is None else joules * draw(st.floats(0, 1)),
        co2e_grams=draw(Known),
        intensity_assumed=draw(st.booleans()),
        cost=cost,
        currency=None if cost is None else draw(st.sampled_from(["EUR", "USD"])),
        **stages,
    )


def known(values: Iterable[float | None]) -> float | None:
    """Return the sum of what is known; None where nothing is."""
    found = [value for value in values if value is not None]
    return math.fsum(found) if found else None


def ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def doubt(pairs: Iterable[tuple[float | None, float | None]]) -> float | None:
    """Return the relative uncertainty of a sum whose parts' errors add up."""
    told = [(joules, relative) for joules, relative in pairs if joules]
    if any(relative is None for _, relative in told):
        return None
    return ratio(math.fsum(joules * (relative or 0) for joules, relative in told), math.fsum(joules for joules, _ in told))


def test_each_figure_of_a_group_is_that_of_plain_arithmetic_over_its_runs(*, full: bool) -> None:
    some = given(
        st.lists(a_row(), min_size=1, max_size=8), st.lists(st.sampled_from(["month", "model", "status"]), unique=True)
    )
    settings(max_examples=60 if full else 25, deadline=None)(some(check_groups))()


def check_groups(rows: list[Row], by: list[str]) -> None:
    """Check each figure of each group against plain arithmetic."""
    groups = {tuple(group.by.values()): group for group in group_rows(rows, by)}
    assert set(groups) == {tuple(getattr(row, word) for word in by) for row in rows}
    for key, group in groups.items():
        those = [row for row in rows if tuple(getattr(row, word) for word in by) == key]
        joules = known(row.joules for row in those)
        priced = [row for row in those if row.cost is not None]
        expected = {
            "runs": len(those),
            "kwh": ratio(joules, KWH),
            "kwh_unknown": sum(row.joules is None or row.incomplete for row in those),
            "relative_uncertainty": doubt((row.joules, row.relative_uncertainty) for row in those),
            "estimated_share": ratio(known(row.estimated_joules for row in those), joules),
            "co2e_grams": known(row.co2e_grams for row in those),
            "co2e_unknown": sum(row.co2e_grams is None or row.incomplete for row in those),
            "co2e_assumed": sum(row.intensity_assumed and row.co2e_grams is not None for row in those),
            "cost_unknown": sum(row.cost is None or row.incomplete for row in those),
            "cost": {name: known(row.cost for row in priced if row.currency == name) for name in {r.currency for r in priced}},
        }
        for stage, (unit, of_token) in product(("train", "predict"), (("sample", ""), ("token", "token_"))):
            columns = (f"{of_token}joules", f"{unit}s", "relative_uncertainty")
            told = [[getattr(row, f"{stage}_{column}") for row in those] for column in columns]
            expected[f"{stage}_joules_per_{unit}"] = ratio(known(told[0]), known(told[1]))
            expected[f"{stage}_{of_token}relative_uncertainty"] = doubt(zip(told[0], told[2], strict=True))
        for name, value in expected.items():
            assert getattr(group, name) == (value if value is None else pytest.approx(value, rel=1e-9)), name


def test_joules_per_sample_is_the_sum_of_joules_over_the_sum_of_samples_with_compiling_left_out(runs: Folder) -> None:
    runs.add(1.0, stages={"train": a_stage(1000.0, 100), "predict": a_stage(10.0, 10)})
    runs.add(1.0, stages={"train": a_stage(1500.0, 320, compiling=500.0, compile_samples=20), "test": a_stage(7.0, 1)})
    runs.add(1.0, stages={"train": a_stage(9999.0, None)})
    total = groups(runs, "month")[None]
    assert total.train_joules_per_sample == pytest.approx((1000 + 1000) / (100 + 300))
    assert total.train_relative_uncertainty == pytest.approx(0.1)
    assert total.predict_joules_per_sample == pytest.approx(1.0)


def test_months_are_in_order_by_the_runs_own_clock(runs: Folder) -> None:
    runs.add(1.0, started_at="2026-02-01T00:30:00+02:00")  # January by UTC
    runs.add(1.0, started_at="2025-12-31T10:00:00+01:00")
    rows = read_runs(find_files([str(runs.path)], pytest.fail)).rows
    assert [group.by["month"] for group in group_rows(rows, ["month"])] == ["2025-12", "2026-02"]


def test_groups_by_tags_and_by_the_value_of_one(runs: Folder) -> None:
    odd = "a/b~'x'"
    runs.add(1.0, tags={"team": "vision", odd: "1"})
    runs.add(2.0, tags={odd: "1", "team": "vision"})
    runs.add(4.0, tags={"team": "text", "Team": "other"})
    runs.add(8.0)
    found = groups(runs, "tag:team")
    assert (found["vision"].kwh, found["text"].kwh) == (pytest.approx(3), pytest.approx(4))
    assert groups(runs, f"tag:{odd}")["1"].kwh == pytest.approx(3)
    assert groups(runs, "tag:Team")["other"].kwh == pytest.approx(4)
    assert groups(runs, "tag")['{"a/b~\'x\'":"1","team":"vision"}'].runs == 2
    with pytest.raises(ConfigurationError, match="No run has the tag 'tem'; existing tags are Team, a/b~'x', team"):
        groups(runs, "tag:tem")


def test_several_things_to_group_by(runs: Folder) -> None:
    runs.add(1.0, hostnames=["a", "b"], framework="keras 3")
    runs.add(2.0, hostnames=["a", "b"], framework="none")
    found = groups(runs, "host", "framework")
    assert found["a, b", "keras 3"].kwh == pytest.approx(1)
    assert found["a, b", "none"].kwh == pytest.approx(2)


def test_a_run_that_is_there_twice_counts_once_as_its_longest(runs: Folder) -> None:
    runs.add(1.0, id="same", seconds=5)
    runs.add(3.0, id="same", seconds=50)
    runs.add(2.0, id="same", seconds=20)
    found = read_runs(find_files([str(runs.path), str(runs.path / "run1")], pytest.fail))
    assert [row.joules for row in found.rows] == [pytest.approx(3 * KWH)]
    assert found.repeated == 2


def test_what_one_process_of_a_job_left_does_not_stand_for_the_job(runs: Folder) -> None:
    job = runs.add(8.0, id="job", seconds=10)
    record = load_record(job)
    part = Part(rank=1, host="a", hostname="a", uses=[])
    longer = replace(record, part=part, total=replace(record.total, joules=KWH, seconds=11.0))
    rank = job.with_name("energy.rank1.json")
    rank.write_text(dump_json(longer))
    found = read_runs(find_files([f"{runs.path}/*/*.json"], pytest.fail))
    assert [row.joules for row in found.rows] == [pytest.approx(8 * KWH)]
    assert (found.broken, found.repeated) == ([str(rank)], 0)
    with pytest.raises(RecordError, match=r"energy.rank1.json is the file of one process of a job: `ml-energy merge` builds"):
        read_runs(find_files([str(rank)], pytest.fail))


def test_what_cannot_be_read_is_counted_and_named_and_the_others_are_shown(runs: Folder) -> None:
    runs.add(1.0)
    runs.add(2.0)
    for i in range(5):
        runs.add(1.0).write_text('{"schema_version": 2}' if i == 0 else "{")
    done = report(runs.path)
    shown = "".join(done.stdout.split())  # a long path is folded
    assert done.returncode == 0, done.stderr
    assert "schemaversionnotsupportedbythisrelease:1(" in shown
    assert "damagedornotarunrecord:4(" in shown
    assert "run3/energy.json" in shown
    assert ",...)" in shown
    found = json.loads(report(runs.path, "--json").stdout)
    assert (found["total"]["runs"], len(found["broken"]), len(found["other_versions"])) == (2, 4, 1)


def test_the_table_shows_groups_total_and_what_is_unknown(runs: Folder) -> None:
    runs.add(1.0, estimated=0.25, cost=0.3, currency="EUR", model="Net", stages={"train": a_stage(50.0, 100)}, assumed=True)
    runs.add(None, model="Net")
    done = report(runs.path, "--by", "model", "--by", "status", columns=120)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "model status runs s unknown kWh mated g CO2e EUR mJ/sample" in lines
    assert "Net completed 2 20.0 1 ≥1.00 ±10 % 25 % ≥100 ≥0.30 500 ±10 %" in lines, done.stdout
    assert "total 2 20.0 1 ≥1.00 ±10 % 25 % ≥100 ≥0.30 500 ±10 %" in lines
    assert "≥: lower bound, because values of some runs are unknown and not included." in lines
    assert "Emissions of 1 run use, at least in part, the world average: no location was set." in " ".join(lines)
    assert done.stderr == ""


def test_the_table_shows_each_currency_and_no_column_of_what_no_run_knows(runs: Folder) -> None:
    runs.add(1.0, cost=0.3, currency="EUR")
    runs.add(1.0, cost=0.2)
    shown = " ".join(report(runs.path).stdout.split())
    assert "month runs s kWh mated g CO2e cost ─" in shown
    assert "total 2 20.0 2.00 ±10 % 0 % 200 0.30 EUR, 0.20 USD" in shown
    assert "≥" not in shown


def test_no_width_of_the_terminal_takes_a_digit_away(runs: Folder) -> None:
    for model, currency in (("BertForSequenceClassification", "EUR"), ("Net", "USD")):
        stages = {"train": a_stage(12345.0, 10), "predict": a_stage(7.0, 10)}
        runs.add(
            123456.789,
            cost=98765.4,
            currency=currency,
            model=model,
            hostnames=["node-01", "node-02"],
            stages=stages,
            seconds=1e5,
        )
    runs.add(None)
    whole = words(report(runs.path, "--by", "model", "--by", "host", columns=240).stdout)
    assert {"123", "247", "MWh", "98,765.40", "12,346"} <= whole
    for width in (60, 80, 100):
        text = report(runs.path, "--by", "model", "--by", "host", columns=width).stdout
        assert max(map(len, text.splitlines())) <= width
        assert {word for word in words(text) if word[0].isdigit()} <= whole


def words(text: str) -> set[str]:
    return set(text.replace("─", "").replace("≥", "").split())


def test_names_are_shown_as_they_are_and_an_empty_one_is_not_an_unknown_one(runs: Folder) -> None:
    runs.add(1.0, tags={"[/x]": "[b]:smile:"}, cost=1.0, currency="[/eur]")
    runs.add(1.0, tags={"[/x]": ""})
    runs.add(1.0)
    done = report(runs.path, "--by", "tag:[/x]")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert [line.split("10.0 1.00 ±10 %")[0].strip() for line in lines if "10.0 1.00 ±10 %" in line] == ["", "[b]:smile:", "-"]
    assert "tag:[/x]" in done.stdout
    assert "[/eur]" in done.stdout
    runs.add(1.0, cost=1.0)
    assert "1.00 [/eur]" in report(runs.path).stdout


def test_rows_are_written_flat_as_csv_and_parquet(runs: Folder, tmp_path: Path) -> None:
    runs.add(1.0, estimated=0.25, model="Net", tags={"team": "vision"}, stages={"train": a_stage(50.0, 100)})
    runs.add(None)
    done = report(runs.path, "--csv", tmp_path / "it's.csv", "--parquet", tmp_path / "runs.parquet")
    assert done.returncode == 0, done.stderr
    names = [field.name for field in msgspec.structs.fields(Row)]
    with (tmp_path / "it's.csv").open(encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert list(first) == names
    assert (float(first["joules"]), float(first["estimated_joules"])) == (pytest.approx(KWH), pytest.approx(KWH / 4))
    assert (first["model"], json.loads(first["tags"]), first["train_samples"]) == ("Net", {"team": "vision"}, "100")
    assert (second["joules"], second["model"], second["tags"], second["currency"]) == ("", "", "", "")
    table = duckdb.read_parquet(str(tmp_path / "runs.parquet")).order("file")
    assert table.columns == names
    assert table.fetchall()[1][names.index("joules")] is None


def test_each_column_of_a_row_is_documented() -> None:
    page = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    assert [field.name for field in msgspec.structs.fields(Row) if f"`{field.name}`" not in page] == []


def test_one_record_is_shown_as_a_run_wherever_it_is(runs: Folder) -> None:
    file = runs.add(1.0)
    expected = report(file)
    assert expected.stdout.startswith("Energy ")
    assert report(runs.path).stdout == expected.stdout
    assert report(f"{runs.path}/*").stdout == report(f"file://{file}").stdout == expected.stdout
    assert json.loads(report(runs.path, "--json").stdout) == json.loads(file.read_text())
    assert json.loads(report(file, "--by", "host", "--json").stdout)["total"]["runs"] == 1


def test_a_directory_with_a_record_of_its_own_is_that_run_and_with_by_all_that_it_holds(runs: Folder) -> None:
    own = runs.add(1.0, folder=runs.path)
    own.with_name("energy-00000000.json").write_text(runs.add(2.0, folder=runs.path / "x").read_text())
    runs.add(4.0)
    assert report(runs.path).stdout.startswith("Energy ")
    assert json.loads(report(runs.path, "--by", "month", "--json").stdout)["total"]["kwh"] == pytest.approx(7)


def test_patterns_and_several_paths(runs: Folder) -> None:
    first, second, third = (runs.add(kwh) for kwh in (1.0, 2.0, 4.0))
    for places, kwh in (
        ([first, third.parent], 5),
        ([f"{runs.path}/run[12]"], 3),
        ([f"{runs.path}/**/energy.json"], 7),
        ([f"file://{runs.path}"], 7),
        ([f"file://{runs.path}/run?", second], 7),
    ):
        assert json.loads(report(*places, "--json").stdout)["total"]["kwh"] == pytest.approx(kwh), places


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/bucket", recursive=True)


def test_records_of_another_file_system(runs: Folder, memory: Any) -> None:
    for i in range(3):
        memory.pipe(f"/bucket/team/run{i}/energy.json", runs.add(2.0**i).read_bytes())
    memory.pipe("/bucket/team/notes.json", b"{}")
    for url, joules in (("memory://bucket", 7), ("memory://bucket/team/run[01]", 3), ("memory://bucket/*/*/energy.json", 7)):
        found = read_runs(find_files([url], pytest.fail))
        assert sum(row.joules or 0 for row in found.rows) == pytest.approx(joules * KWH)
        assert found.rows[0].file.startswith("memory:///bucket/team/run0"), found.rows[0].file
    with pytest.raises(RecordError, match="no run record at memory://bucket/none"):
        find_files(["memory://bucket/none"], pytest.fail)
    with pytest.raises(ConfigurationError, match=r"nosuch://x cannot be reached: .*nosuch"):
        find_files(["nosuch://x"], pytest.fail)


def test_odd_texts_of_a_record_are_kept_as_they_are(runs: Folder) -> None:
    odd = ["a\"b\\c'd", "é\n\t", "nul \0", "{}[]$1?", "\U0001f600"]
    for text in odd:
        runs.add(1.0, model=text, tags={text: text})
    assert set(groups(runs, "model")) == {*odd, None}
    for text in odd:
        assert groups(runs, f"tag:{text}")[text].runs == 1


def all_of(terminal: int) -> Iterator[bytes]:
    """Read a terminal until its last writer has closed it: that is an error of Linux's."""
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 65536):
            yield data


def test_progress_is_shown_on_a_terminal_and_gone_at_the_end(runs: Folder) -> None:
    runs.add(1.0)
    runs.add(2.0)
    ours, theirs = os.openpty()
    command = [*COMMAND, "report", str(runs.path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(theirs)
        shown = b"".join(all_of(ours)).decode()
        assert process.stdout is not None
        found = json.loads(process.stdout.read())
    os.close(ours)
    assert (process.returncode, found["total"]["runs"]) == (0, 2)
    assert "Reading run records" in shown
    assert shown.endswith("\x1b[2K")


def test_a_file_that_goes_before_it_is_read_is_broken_and_not_the_end(runs: Folder) -> None:
    runs.add(1.0)
    gone = runs.add(1.0)
    files = find_files([str(runs.path)], pytest.fail)
    gone.unlink()
    found = read_runs(files)
    assert (len(found.rows), found.broken) == (1, [str(gone)])


def test_a_table_of_fleets_names_what_could_not_be_looked_into(runs: Folder) -> None:
    runs.add(1.0)
    group = groups(runs, "month")[None]
    console = Console(width=200)
    with console.capture() as shown:
        fleet = Fleet(
            groups=[replace(group, by={"month": None})],
            total=group,
            included=0,
            repeated=2,
            other_versions=[],
            broken=[],
            unlisted=["/x"],
        )
        console.print(render_fleet(fleet))
    assert "Not searched, directory cannot be listed: 1 (/x)." in shown.get()
    assert "Additional records of the same runs: 2; each run counts once" in shown.get()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{}", "--by", "week"], "--by is 'week'; use tag, model, host, month, framework, status, run, or tag:NAME"),
        (["{}", "--by", "tag:"], "--by is 'tag:'; use"),
        (["{}", "--by", "tag:team"], "No run has the tag 'team'; no run has any tag."),
        (["{}/none", "{}"], "There is no run record at"),
        (["{}/none*"], "There is no run record at"),
        (["x" * 300], "There is no run record at"),
        (["{}", "--csv", "x" * 300], "cannot be written to xxx"),
        (["{}", "--csv", "{}"], "it is a directory"),
        (["{}", "--csv", "{}/none/a.csv"], "none does not exist"),
        (["{}", "--parquet", "{}/run1/energy.json/a.parquet"], "energy.json does not exist"),
        (["{}", "--parquet", "/proc/runs.parquet"], "cannot be written to /proc/runs.parquet"),
        (["s3x://bucket/*"], "s3x://bucket/* cannot be reached"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence_and_status_2(runs: Folder, args: list[str], message: str) -> None:
    runs.add(1.0)
    runs.add(2.0)
    done = report(*(arg.replace("{}", str(runs.path)) for arg in args))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("ml-energy: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_directory_that_may_not_be_entered_is_told(runs: Folder) -> None:
    runs.add(1.0)
    hidden = runs.add(1.0).parent
    hidden.chmod(0)
    unlisted: list[str] = []
    with unprivileged(runs.path):
        assert len(find_files([str(runs.path)], unlisted.append)) == 1
        assert unlisted == [str(hidden)]
        for place in (hidden, hidden / "energy.json", hidden / "*"):
            assert not is_run(str(place))
            with pytest.raises(RecordError, match="There is no run record at"):
                find_files([str(place)], unlisted.append)
        with pytest.raises(RecordError, match=rf"\({hidden} cannot be listed\): give an energy.json"):
            find_files([str(hidden)], unlisted.append)
        with pytest.raises(ConfigurationError, match=r"cannot be written to .*: Permission denied; use a file"):
            check_output(hidden / "runs.csv")
        for load in (load_record, lambda place: load_records([place])):
            with pytest.raises(RecordError, match=r"energy.json cannot be read: Permission denied"):
                load(hidden / "energy.json")
    hidden.chmod(0o755)


def test_files_of_which_none_is_a_record_are_one_sentence(runs: Folder) -> None:
    for _ in range(3):
        runs.add(1.0).write_text("{")
    done = report(runs.path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "None of the 3 files is a readable run record: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("package", "args", "message"),
    [
        ("duckdb", ["{}", "--parquet", "{}/runs.parquet"], "pip install 'ml-energy-callbacks[fleet]'"),
        ("fsspec", ["file://{}"], "pip install 'ml-energy-callbacks[remote]'"),
    ],
)
def test_a_missing_extra_is_named(
    runs: Folder, package: str, args: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.add(1.0)
    runs.add(2.0)
    hide(monkeypatch, package)
    done = report(*(arg.replace("{}", str(runs.path)) for arg in args))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_runs_are_listed_one_by_one_in_the_order_of_their_starts(runs: Folder) -> None:
    runs.add(2.0, started_at="2026-11-25T10:00:00+01:00", model="B")
    runs.add(1.0, started_at="2026-11-24T09:30:00+01:00", model="A")
    own = runs.add(4.0, started_at="2026-11-26T10:00:00+01:00", folder=runs.path / "run1")
    own.rename(own.with_name("energy-00000000.json"))
    runs.add(2.0, folder=runs.path / "run1")
    done = report("runs", "--by", "run", "--by", "model", columns=120, folder=runs.path.parent)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(" runs/")]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("runs/run2", "A", "10.0"),
        ("runs/run1", "-", "10.0"),
        ("runs/run1/energy-00000000.json", "-", "10.0"),
    ]
    facts = json.loads(report(runs.path, "--by", "run", "--json").stdout)
    assert [group["runs"] for group in facts["groups"]] == [1, 1, 1]


def test_many_runs_are_grouped_without_duckdb(runs: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        runs.add(1.0, model="Net")
    hide(monkeypatch, "duckdb")
    done = report(runs.path, "--by", "model", "--csv", tmp_path / "runs.csv", "--json")
    assert json.loads(done.stdout)["groups"][0]["runs"] == 3
    assert (tmp_path / "runs.csv").read_text().count("\n") == 4


@pytest.mark.parametrize(
    ("count", "seconds", "megabytes"), [(300, 10, 150), pytest.param(10_000, 40, 500, marks=pytest.mark.full)]
)
def test_many_records_are_quick_and_small(count: int, seconds: float, megabytes: float) -> None:
    """Ten thousand take 2.4 s and 154 MB on two idle cores, 300 take 0.4 s and 95 MB; a busy machine takes longer."""
    command = [sys.executable, ROOT / "benchmarks" / "fleet.py", "--json", "--runs", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["runs"] == count
    assert found["seconds"] < seconds
    assert found["peak_bytes"] < megabytes * 1e6

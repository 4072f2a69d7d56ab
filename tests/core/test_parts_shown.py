"""Parts of batches wherever phases are shown: below `compute`, which includes them, so that no sum counts them twice."""

from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console, RenderableType

from ml_energy_callbacks import RunRecord
from ml_energy_callbacks.metrics import PARTS, StageFigures, add_stage_figures, described, is_core
from ml_energy_callbacks.record.schema import PhaseRecord
from ml_energy_callbacks.report import render
from ml_energy_callbacks.report.diff import diff_runs
from ml_energy_callbacks.report.diff_table import render_diff
from ml_energy_callbacks.report.page import run_page
from ml_energy_callbacks.sinks.figures import read_figures
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter

WATTS = {"transfer": 150.0, "forward": 380.0, "backward": 430.0, "optimizer": 210.0, "other": 180.0}
SECONDS = {"transfer": 0.13, "forward": 0.16, "backward": 0.32, "optimizer": 0.12, "other": 0.11}
NAMES = list(WATTS)


class Run:
    """A training whose batches have parts, with the metrics of its second half and the true energy of each part in that."""

    def __init__(self, forward_s: float = SECONDS["forward"]) -> None:
        self.clock = ManualClock()
        self.curve = PowerCurve(self.clock, 60.0)
        counter = ScriptedCounter(self.curve, self.clock, period_s=0.02)
        self.meter = SteppedMeter(self.clock, backends=[ScriptedBackend([counter])], verbose=False, location="FRA")
        seconds = {**SECONDS, "forward": forward_s}
        with self.meter, self.meter.stage("train"):
            self._train(seconds)
            assert self.meter.record  # as is built every few seconds
            self.true = dict.fromkeys(NAMES, 0.0)
            start = self.meter.point()
            self._train(seconds)
            self.metrics, _ = self.meter.close_epoch("train", 0, start)
        self.record = self.meter.record

    def _train(self, seconds: dict[str, float]) -> None:
        self.true = dict.fromkeys(NAMES, 0.0)
        for i in range(25):
            self.curve.set(90.0)
            self.clock.advance(0.11 + 0.0037 * (i % 7))
            self.meter.batch_start()
            for name in NAMES:
                self.meter.enter_part(None if name == "other" else name)  # type: ignore[arg-type]
                self.curve.set(WATTS[name])
                before = self.curve.joules()
                self.clock.advance(seconds[name] * (0.8 + 0.04 * (i * 7 % 11)))
                self.true[name] += self.curve.joules() - before
            self.meter.batch_end(8)


@pytest.fixture(scope="module")
def run() -> Run:
    return Run()


@pytest.fixture(scope="module")
def quicker() -> Run:
    return Run(forward_s=0.08)


def compute_of(record: RunRecord) -> PhaseRecord:
    return record.stages["train"].phases["compute"]


def undivided(record: RunRecord, reason: str | None = None) -> RunRecord:
    train = record.stages["train"]
    compute = replace(train.phases["compute"], parts={}, parts_reason=reason)
    return replace(record, stages={**record.stages, "train": replace(train, phases={**train.phases, "compute": compute})})


def lines(contents: RenderableType, width: int) -> list[str]:
    shown = StringIO()
    Console(file=shown, width=width).print(contents)
    return shown.getvalue().splitlines()


def below(found: list[str], head: str, count: int) -> list[str]:
    """Return the lines below the first one that begins like this."""
    at = next(i for i, line in enumerate(found) if line.startswith(head))
    return found[at + 1 : at + 1 + count]


@pytest.mark.parametrize("width", [80, 120])
def test_the_report_has_them_below_compute(run: Run, width: int) -> None:
    found = lines(render(run.record, verbose=True), width)
    parts = below(found, " train  compute", 5)
    assert [line.split()[:2] for line in parts] == [["train", name] for name in NAMES]
    assert all(line.startswith(" train    ") for line in parts)
    assert max(map(len, found)) <= width


def test_the_page_has_them_below_compute(run: Run) -> None:
    rows = run_page(run.record).partition("train, compute</th>")[2].split('<th scope="row">')[1:7]
    assert [row.partition("<")[0] for row in rows] == [*(f"\u2003{name}" for name in NAMES), "train, data wait"]


def test_a_reason_why_there_are_none_or_why_one_is_unknown_is_shown(run: Run) -> None:
    record = undivided(run.record, "The framework runs a step as one.")
    assert "parts of train compute: The framework runs a step as one." in lines(render(record, verbose=True), 120)
    assert "parts of train compute: The framework runs a step as one." in run_page(record)
    compute = compute_of(run.record)
    unknown = {**compute.parts, "forward": replace(compute.parts["forward"], joules=None, reason="Too short.")}
    train = run.record.stages["train"]
    phases = {**train.phases, "compute": replace(compute, parts=unknown)}
    record = replace(run.record, stages={**run.record.stages, "train": replace(train, phases=phases)})
    assert "train compute forward: Too short." in lines(render(record, verbose=True), 120)
    assert "train compute forward: Too short." in run_page(record)


def test_a_data_frame_has_them_as_columns_of_their_phase(run: Run) -> None:
    pytest.importorskip("pandas")
    frame = run.record.to_frame()
    for name, part in compute_of(run.record).parts.items():
        assert frame[f"compute_{name}_joules"][0] == part.joules
        assert frame[f"compute_{name}_high_joules"][0] == part.high_joules
    assert frame["joules"].sum() == pytest.approx(run.record.total.joules)


def test_a_difference_names_the_part_that_caused_it(run: Run, quicker: Run) -> None:
    diff = diff_runs(run.record, quicker.record)
    compute, *parts = [part for part in diff.parts if (part.stage, part.phase) == ("train", "compute")]
    assert [part.part for part in parts] == NAMES
    for kind in ("difference", "time", "power", "samples"):
        assert sum(joules(getattr(part, kind)) for part in parts) == pytest.approx(joules(getattr(compute, kind)), abs=2.0)
    verdicts = {part.part: part.difference.verdict for part in parts if part.difference is not None}
    assert verdicts["forward"] == "less"
    for width in (80, 120):
        found = lines(render_diff(diff), width)
        assert any(line.startswith("Largest cause: the time per sample of train compute forward, -") for line in found)
        assert [line.split()[0] for line in below(found, "   compute", 5)] == NAMES
        assert max(map(len, found)) <= width


def test_runs_of_which_one_has_no_parts_differ_by_phases(run: Run, quicker: Run) -> None:
    diff = diff_runs(run.record, undivided(quicker.record))
    assert not [part for part in diff.parts if part.part is not None]
    assert any("time per sample of train compute, -" in line for line in lines(render_diff(diff), 120))


def joules(change: Any) -> float:
    return float(change.joules)


def test_metrics_have_the_energy_of_each_part_in_an_epoch(run: Run) -> None:
    found = {name: run.metrics[f"energy/train/{name}_joules"] for name in PARTS}
    assert found == {name: pytest.approx(run.true[name], rel=0.05) for name in PARTS}
    assert sum(found.values()) < run.metrics["energy/train/compute_joules"]
    for name in PARTS:
        assert not is_core(f"energy/train/{name}_joules")
        assert described(f"energy/train/{name}_joules").startswith("Energy of ")
    assert "energy/train/other_joules" not in run.metrics


def test_parts_of_a_job_are_the_sums_of_what_all_its_processes_know() -> None:
    def figures(*, measures: bool = True, **parts: float) -> StageFigures:
        unknown = ("joules", "sampled_joules", "above_idle_joules", "samples", "co2e_grams", "cost")
        whole: dict[str, Any] = dict.fromkeys((*unknown, "compute_joules", "data_wait_joules"))
        return StageFigures(seconds=1.0, parts=parts, measures=measures, **whole)

    first, second = figures(forward=1.0, backward=2.0), figures(forward=3.0, optimizer=4.0)
    assert add_stage_figures([first, second, figures(measures=False)]).parts == {"forward": 4.0}
    assert add_stage_figures([figures(measures=False)]).parts == {}


def test_exported_phases_still_add_up_beside_their_parts(run: Run) -> None:
    figures = {figure.prometheus: dict(values) for figure, values in read_figures(run.record).items()}
    train = run.record.stages["train"]
    phases = [value for (stage, _), value in figures["ml_energy_phase_joules"].items() if stage == "train"]
    assert sum(phases) == pytest.approx(train.joules)
    for name, quantity in {
        "ml_energy_part_joules": "joules",
        "ml_energy_part_low_joules": "low_joules",
        "ml_energy_part_high_joules": "high_joules",
        "ml_energy_part_seconds": "seconds",
    }.items():
        assert figures[name] == {("train", part): getattr(each, quantity) for part, each in parts_of(train.phases)}
    assert sum(figures["ml_energy_part_joules"].values()) == pytest.approx(compute_of(run.record).joules)
    assert not any(values for name, values in named(undivided(run.record)) if "_part_" in name)


def named(record: RunRecord) -> Iterator[tuple[str, Any]]:
    return ((figure.prometheus, values) for figure, values in read_figures(record).items())


def parts_of(phases: dict[str, PhaseRecord]) -> Iterator[tuple[str, PhaseRecord]]:
    return (each for phase in phases.values() for each in phase.parts.items())

"""Error of each tool where the true energy is known: of the run, an epoch, a single batch, the data wait, and with faults.

Each tool runs in real time in a process of its own (`trial`), in mixed order. The coverage of our stated intervals is counted
in many seeded simulations under a manual clock, those of the package's own tests.
"""

import importlib.util
import os
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from math import inf
from pathlib import Path
from statistics import fmean, median
from typing import Any

from .jobs import estimate, quantile, run_jobs
from .results import Bar, Cell, Plot, Progress, Scale, Section, Table
from .tools import TOOLS, Question
from .worlds import OUTAGE_S, Spec

NAMES = ("ours", "zeus", "codecarbon", "carbontracker")
COMMAND = "python -m side_by_side --only accuracy"
AT_ONCE = 4 * (os.cpu_count() or 1)
"""The processes sleep nearly all the time."""
SKIPPED = 5
"""Number of first batches that are left out, as in the package's own tests."""
LATER = slice(SKIPPED, None)
P95 = partial(quantile, share=0.95)

TOTAL_BAR, P50_BAR, P95_BAR, HOLD_BAR, WIDTH_BAR = 0.1, 2.0, 6.0, 90.0, 10.0
"""All in percent."""
BAR_BATCH = Spec()
"""60 ms batches at a counter that refreshes every 100 ms."""

WORLDS = ((0.1, 0.1, 0.4), (0.1, 0.05, 0.2), (0.1, 0.03, 0.06), (0.1, 0.02, 0.04), (0.1, 0.005, 0.02), (0.02, 0.05, 0.2))
WORLDS += ((0.001, 0.02, 0.04),)
"""Refresh, wait and compute in s."""
SHAPED_S = 0.15
"""Length of a batch where power is not constant in it."""
SHORTEST_S = 0.06
"""Batches, their wait included, for which the width of the intervals is promised."""
MINUTE_S = 60
OVER_GPUS = "carbontracker takes the mean over the GPUs of a machine instead of the sum."
LEARNT_S = 6
"""A shorter run does not show the accuracy of a tool."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        seeds: Runs of each kind.
        total_s: Length of a run whose total is asked for.
        epoch_s: Length of a run of four epochs.
        batch_s: Length of a run of single batches.
        fault_s: Length of a run with a fault: at 7 to 11 s, the end of an epoch falls into an outage.
        places: GPUs and refresh periods of the runs whose total and epochs are asked for.
        batches: Length of batches, refresh period and number of GPUs.
        shapes: Time constant of the power's changes and lag behind the loop, in s, of runs in which it is not constant.
        shaped_s: Length of such a run.
        faults: What goes wrong.
        seeded: Worlds under the manual clock, and their length in s.
    """

    seeds: int
    total_s: float
    epoch_s: float
    batch_s: float
    fault_s: float
    places: Sequence[tuple[int, float]]
    batches: Sequence[tuple[float, float, int]]
    shapes: Sequence[tuple[float, float]]
    shaped_s: float
    faults: Sequence[str]
    seeded: tuple[int, float]


_LENGTHS, _PERIODS = (0.01, 0.05, 0.06, 0.25), (0.1, 0.02, 0.001)
_FAULTS = ("wrap", "outage", "reload")
_SHAPES = ((0.005, 0.0), (0.02, 0.0), (0.0, 0.02))
PLANS: dict[Scale, Plan] = {
    "smoke": Plan(1, 1, 1, 2, 0, [(1, 0.1)], [(0.06, 0.1, 1)], [(0.02, 0.0)], 2, [], (7, 5)),
    "quick": Plan(
        1,
        20,
        6,
        8,
        7,
        [(1, 0.1), (8, 0.1)],
        [(0.01, 0.1, 1), (0.06, 0.1, 1), (0.25, 0.1, 1), (0.06, 0.001, 1), (0.06, 0.1, 8)],
        _SHAPES,
        30,
        _FAULTS,
        (70, 60),
    ),
    "full": Plan(
        2,
        20,
        10,
        12,
        9,
        [(gpus, period) for gpus in (1, 8) for period in _PERIODS],
        [*((length, period, 1) for period in _PERIODS for length in _LENGTHS), (0.06, 0.1, 8)],
        _SHAPES,
        60,
        _FAULTS,
        (350, 60),
    ),
}


@dataclass(frozen=True, slots=True)
class Run:
    """A tool in a world, asked a question."""

    tool: str
    spec: Spec
    question: Question


Found = dict[tuple[str, Spec, Question], list[dict[str, Any]]]
"""What the seeds of a run gave; the spec is that of seed 0."""


def planned(plan: Plan) -> list[Run]:
    """Return the runs of one seed."""
    specs: list[tuple[Question, Spec]] = []
    for gpus, refresh_s in plan.places:
        specs.append(("total", Spec(gpus, refresh_s, seconds=plan.total_s)))
        specs.append(("epoch", Spec(gpus, refresh_s, seconds=plan.epoch_s)))
    for batch_s, refresh_s, gpus in plan.batches:
        specs.append(("split", Spec(gpus, refresh_s, batch_s, plan.batch_s)))
    specs += [("split", Spec(batch_s=SHAPED_S, seconds=plan.shaped_s, ramp_s=ramp, lag_s=lag)) for ramp, lag in plan.shapes]
    for fault in plan.faults:
        specs += [(question, Spec(seconds=plan.fault_s, fault=fault)) for question in ("total", "epoch")]
    return [Run(name, spec, q) for q, spec in specs for name in NAMES if q not in TOOLS[name].cannot]


def in_real_time(plan: Plan, progress: Progress) -> Found:
    """Run everything, in an order that mixes the tools, seed after seed."""
    order = random.Random(0)  # noqa: S311 - no secret
    runs: list[tuple[Run, int]] = []
    for seed in range(plan.seeds):
        some = planned(plan)
        order.shuffle(some)
        runs += [(run, seed) for run in some]
    jobs = [
        ({"tool": run.tool, "question": run.question, "spec": asdict(run.spec) | {"seed": seed}}, run.spec.seconds)
        for run, seed in runs
    ]
    found: Found = {}
    for (run, _), result in zip(runs, run_jobs("trial", jobs, AT_ONCE, progress, "accuracy"), strict=True):
        found.setdefault((run.tool, run.spec, run.question), []).append(result)
    return found


def error(pair: Sequence[float | None]) -> float:
    """Return the error of a value in percent of the truth; a missing value has an error of 100 %."""
    said, true = pair[0], pair[1]
    return abs((said or 0.0) / true - 1) * 100


def cell(results: Sequence[dict[str, Any]], errors: Sequence[float], of=median, note: str = "") -> Cell:
    """Return the cell of several runs: the statistic of their errors, or why there are none."""
    failed = [result["error"] for result in results if "error" in result]
    if failed and not errors:
        return Cell(None, unit="%", note=f"It raised: {failed[0]}")
    if failed:
        note = f"{len(failed)} of {len(results)} runs raised: {failed[0]}"
    return estimate(errors, "%", of, note)


def totals(results: Sequence[dict[str, Any]]) -> list[float]:
    """Return the errors of the runs' totals in percent."""
    return [error(result["total"]) for result in results if result.get("total", [None])[0] is not None]


def windows(results: Sequence[dict[str, Any]], part: slice = slice(None)) -> list[float]:
    """Return the errors in percent of a part of each run's windows."""
    return [error(pair) for result in results for pair in result.get("windows", [])[part]]


def worst_windows(results: Sequence[dict[str, Any]]) -> list[float]:
    """Return the error of each run's worst window in percent, of those that the tool gives a figure for."""
    known = [[pair for pair in result.get("windows", []) if pair[0] is not None] for result in results]
    return [max(error(pair) for pair in pairs) for pairs in known if pairs]


def waits(results: Sequence[dict[str, Any]]) -> list[float]:
    """Return the errors of the runs' energy of data waits in percent."""
    return [error(result["wait"]) for result in results if result.get("wait", [None])[0] is not None]


def refusal(name: str, question: Question) -> Cell:
    """Return the cell that says why a tool cannot answer."""
    return Cell(None, unit="%", note=TOOLS[name].cannot[question])


def place_name(spec: Spec) -> str:
    """Return the words for the GPUs of a world."""
    return f"{spec.gpus} GPU{'s' * (spec.gpus > 1)}, counter every {spec.refresh_s * 1000:g} ms"


def batch_name(spec: Spec) -> str:
    """Return the words for the batches of a world."""
    return f"{spec.batch_s * 1000:g} ms, {place_name(spec)}"


def specs_of(found: Found, question: Question, *, faulty: bool = False, shaped: bool = False) -> list[Spec]:
    """Return the worlds in which a question was asked, in a fixed order."""
    asked = {spec for _, spec, about in found if about == question}
    specs = [spec for spec in asked if bool(spec.fault) == faulty and spec.shaped == shaped]
    return sorted(specs, key=lambda spec: (spec.fault, spec.gpus, -spec.refresh_s, spec.batch_s, spec.lag_s, spec.ramp_s))


def whole_table(found: Found, question: Question, title: str, of_runs, about: str) -> Table:
    """Return a table of worlds by tools with one figure for each."""
    rows = {}
    for spec in specs_of(found, question):
        cells = []
        for name in NAMES:
            results = found.get((name, spec, question))
            if results is None:
                cells.append(refusal(name, question))
                continue
            note = next((result["note"] for result in results if result.get("note")), "")
            cells.append(cell(results, of_runs(results), note=note))
        rows[batch_name(spec) if question == "split" else place_name(spec)] = cells
    return Table(title, NAMES, rows, COMMAND, about)


def shaped_table(found: Found) -> Table:
    """Return the table of the energy of data waits where power is not constant, with the intervals that ours states."""
    rows = {}
    for spec in specs_of(found, "split", shaped=True):
        shape = f"{spec.lag_s * 1000:g} ms behind the loop" if spec.lag_s else f"time constant {spec.ramp_s * 1000:g} ms"
        cells = []
        for name in NAMES:
            results = found.get((name, spec, "split"))
            note = "" if results is None else next((result["note"] for result in results if result.get("note")), "")
            cells.append(refusal(name, "split") if results is None else cell(results, waits(results), note=note))
        ours = found["ours", spec, "split"]
        stated = [run["wait"][1:] for run in ours if "wait" in run and None not in run["wait"][1:]]
        note = "" if stated else "No interval was stated."
        cells += [
            cell(ours, [50 * (high - low) / true for true, low, high in stated], note=note),
            cell(ours, [100.0 * (low <= true <= high) for true, low, high in stated], fmean, note),
        ]
        rows[shape] = cells
    about = (
        f"Batches of {SHAPED_S * 1000:g} ms and waits of half of that on one GPU, whose power rises and falls with a time "
        "constant, or follows the loop later, as that of real GPUs does; counter every 100 ms. The tools are used as in the "
        "table above. `ours, stated` is the half-width of our 95 % interval, and `ours, held` the share of runs in which it "
        "contains the true value, whether a value is stated or an interval only."
    )
    columns = [*NAMES, "ours, stated", "ours, held"]
    return Table("Error of the energy of data waits if power is not constant", columns, rows, COMMAND, about)


def batch_cells(found: Found, spec: Spec, part: slice) -> list[Cell]:
    """Return each tool's median of the errors of single batches, and what 95 % of them are below."""
    cells = []
    for name in NAMES:
        results = found.get((name, spec, "split"))
        if results is None:
            cells.append(refusal(name, "batch"))
            continue
        errors = windows(results, part)
        cells += [cell(results, errors), cell(results, errors, P95)]
    return cells


def batch_table(found: Found) -> Table:
    """Return the table of single batches."""
    rows = {}
    for spec in specs_of(found, "split"):
        rows[batch_name(spec)] = batch_cells(found, spec, LATER)
        if (spec.batch_s, spec.refresh_s, spec.gpus) == (BAR_BATCH.batch_s, BAR_BATCH.refresh_s, BAR_BATCH.gpus):
            first_second = slice(round(1 / (spec.batch_s + spec.wait_s)))
            rows[f"{batch_name(spec)}: the first second"] = batch_cells(found, spec, first_second)
    columns = []
    for name in NAMES:
        columns += [name] if "batch" in TOOLS[name].cannot else [f"{name}, p50", f"{name}, p95"]
    about = (
        "Error of the energy of one batch's computing (420 W; the wait for its data, at 90 W, takes half as long; lengths "
        f"vary by ±20 %, powers by ±3 %). The first {SKIPPED} batches of a run are left out, except where the first second is "
        "shown. If a tool gives no value for a batch, its error counts as 100 %."
    )
    return Table("Error of a single batch", columns, rows, COMMAND, about)


def admitted(results: Sequence[dict[str, Any]]) -> str:
    """Return a note on what a tool itself reports as unknown."""
    notes = []
    missing = [result["missing_s"] for result in results if "missing_s" in result]
    if missing and median(missing):
        notes.append(f"It reports {median(missing):.1f} s as missing.")
    unknown = sum(pair[0] is None for result in results for pair in result.get("windows", []))
    if unknown:
        notes.append(f"It gives no value for {unknown} epochs.")
    return " ".join(notes)


def fault_table(found: Found) -> Table:
    """Return the table of the errors of totals and epochs with faults."""
    words_of = {"wrap": "counter wraps (processor)", "outage": f"no answer for {OUTAGE_S:g} s", "reload": "driver reloaded"}
    rows = {}
    for question, of_runs in (("total", totals), ("epoch", worst_windows)):
        for spec in specs_of(found, question, faulty=True):
            cells = []
            for name in NAMES:
                results = found[name, spec, question]
                cells.append(cell(results, of_runs(results), note=admitted(results)))
            rows[f"{words_of[spec.fault]}: {'total' if question == 'total' else 'worst epoch'}"] = cells
    about = (
        "Runs of four epochs. The counter that wraps is that of a processor, in a simulated powercap tree to which each "
        "tool's path is set. It wraps after 1000 J instead of the 65 kJ and more of a real one, so that it wraps in a short "
        "run; the counter of NVML does not wrap. During the outage every query fails while the GPU continues to draw power "
        "and to count; the end of an epoch is within the outage. After the reload the counter starts at 0, and NVML does not "
        "work until all its users have shut it down."
    )
    return Table("Error with faults", NAMES, rows, COMMAND, about)


def play_world(seed: int, seconds: float) -> tuple[int, bool, float | None, float]:
    """Run a seeded simulation of the tests; return its row, whether the interval holds, its half-width and error in percent."""
    path = Path(__file__).parents[2] / "tests" / "simulation.py"
    simulation = sys.modules.get("simulation")
    if simulation is None:
        spec = importlib.util.spec_from_file_location("simulation", path)
        simulation = sys.modules["simulation"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(simulation)
    row = seed % len(WORLDS)
    refresh_s, wait_s, compute_s = WORLDS[row]
    run = simulation.simulate(refresh_s=refresh_s, wait_s=wait_s, compute_s=compute_s, seed=5000 + seed, duration_s=seconds)
    width = run.wait_half_width / run.wait_joules * 100 if run.wait_resolved else None
    return row, run.holds, width, abs(run.wait_error) * 100


def interval_section(plan: Plan, progress: Progress) -> tuple[Table, list[Bar]]:
    """Return the coverage and the width of the stated intervals of the waits' energy."""
    count, seconds = plan.seeded
    progress(f"accuracy: {count} seeded worlds")
    with ProcessPoolExecutor() as pool:
        worlds = list(pool.map(partial(play_world, seconds=seconds), range(count), chunksize=4))
    rows = {}
    widest = {}
    for row, (refresh_s, wait_s, compute_s) in enumerate(WORLDS):
        mine = [world for world in worlds if world[0] == row]
        widths = [width for _, _, width, _ in mine if width is not None]
        unresolved = len(mine) - len(widths)
        note = f"{unresolved} of {len(mine)} were not resolved." if unresolved else ""
        name = f"wait {wait_s * 1000:g} ms, compute {compute_s * 1000:g} ms, counter every {refresh_s * 1000:g} ms"
        rows[name] = [
            Cell(len(mine)),
            estimate([100.0 * holds for _, holds, width, _ in mine if width is not None], "%", lambda v: sum(v) / len(v)),
            estimate(widths, "%", note=note),
            estimate([found for *_, found in mine], "%"),
        ]
        if wait_s + compute_s >= SHORTEST_S:
            widest[name] = (median(widths) if widths else inf, unresolved)
    apart = [holds for _, holds, width, _ in worlds if width is not None]
    held = 100 * sum(apart) / len(apart) if apart else None
    worst = max(widest, key=lambda name: widest[name])
    width, unresolved = widest[worst]
    bars = [
        Bar(
            "stated intervals of wait energy contain the true value",
            f"in at least {HOLD_BAR:g} % of seeded simulations",
            "none was resolved"
            if held is None
            else f"{held:.1f} % of the {len(apart)} of {count} simulations that are resolved",
            None if held is None else held >= HOLD_BAR,
        ),
        Bar(
            "width of the intervals for batches of 60 ms and more, over a minute",
            f"at most ±{WIDTH_BAR:g} %",
            f"±{width:.1f} % at most, in the median ({worst}; {seconds:g} s)",
            None if seconds < MINUTE_S else width <= WIDTH_BAR and not any(left for _, left in widest.values()),
        ),
    ]
    about = (
        f"{count} simulations of {seconds:g} s under a manual clock. The interval is the 95 % interval that ours states for "
        "the energy of the data waits; its half-width is in percent of that energy. `coverage` is the share of simulations "
        "whose interval contains the true value, among those in which the waits can be resolved."
    )
    columns = ["simulations", "coverage", "half-width", "error of wait energy"]
    return Table("Coverage of the stated intervals", columns, rows, COMMAND, about), bars


def real_time_bars(found: Found, plan: Plan) -> list[Bar]:
    """Return the targets for what was measured in real time."""
    ours = [
        run for (name, spec, asked), runs in found.items() if name == "ours" and asked == "total" and not spec.fault
        for run in runs
    ]  # fmt: skip
    all_totals = totals(ours)
    worst = max(all_totals, default=None)
    none = len(ours) - len(all_totals)
    key = ("ours", Spec(seconds=plan.batch_s), "split")
    errors = windows(found[key], LATER)
    p50, p95 = cell(found[key], errors), cell(found[key], errors, P95)
    too_short = plan.batch_s < LEARNT_S
    failed = any("error" in run for run in found[key])
    return [
        Bar(
            "total of a run",
            f"within {TOTAL_BAR:g} %",
            "no run gave a total"
            if worst is None
            else f"{worst:.3f} % at most, in {len(ours)} runs of {plan.total_s:g} s{f', {none} without a total' * bool(none)}",
            None if worst is None or plan.total_s < LEARNT_S else worst <= TOTAL_BAR and not none,
        ),
        Bar(
            "a single 60 ms batch at a 100 ms counter: median error",
            f"at most {P50_BAR:g} %",
            words(p50),
            None if too_short else below(p50, P50_BAR) and not failed,
        ),
        Bar(
            "a single 60 ms batch at a 100 ms counter: 95 % of them",
            f"at most {P95_BAR:g} %",
            words(p95),
            None if too_short else below(p95, P95_BAR) and not failed,
        ),
    ]


def words(found: Cell) -> str:
    """Return a cell as text."""
    if found.value is None:
        return found.note
    interval = "" if found.low is None else f" ({found.low:.2f} to {found.high:.2f})"
    return f"{found.value:.2f} %{interval}{f'; {found.note}' * bool(found.note)}"


def below(found: Cell, bar: float) -> bool | None:
    """Return whether a value is within its target; None where there is no value."""
    return None if found.value is None else found.value <= bar


def batch_plot(found: Found) -> Plot:
    """Return the median error over the length of a batch, at a counter that refreshes every 100 ms."""
    lines: dict[str, list[tuple[float, float | None]]] = {}
    for name in NAMES:
        for spec in specs_of(found, "split"):
            results = found.get((name, spec, "split"))
            if results and spec.gpus == 1 and spec.refresh_s == BAR_BATCH.refresh_s:
                errors = windows(results, LATER)
                lines.setdefault(name, []).append((spec.batch_s * 1000, median(errors) if errors else None))
    title = "Median error of a single batch at a counter that refreshes every 100 ms"
    return Plot("batch-error", title, "length of the batch in ms", "error in %", lines)


def measure(scale: Scale, progress: Progress) -> Section:
    """Measure everything."""
    plan = PLANS[scale]
    found = in_real_time(plan, progress)
    intervals, interval_bars = interval_section(plan, progress)
    loop = "Batches of 60 ms. "
    tables = [
        whole_table(found, "total", "Error of a run's total", totals, f"{loop}Runs of {plan.total_s:g} s. {OVER_GPUS}"),
        whole_table(
            found, "epoch", "Error of an epoch", windows, f"{loop}Epochs of {plan.epoch_s / 4:g} s, four in a run. {OVER_GPUS}"
        ),
        batch_table(found),
        whole_table(
            found,
            "split",
            "Error of the energy of data waits",
            waits,
            "Ours: the phase in the record. Zeus: the window around the run minus the windows of the batches. CodeCarbon: the "
            "sum of the tasks around the waits, because its tasks cannot be nested in a run.",
        ),
        shaped_table(found),
        intervals,
    ]
    if plan.faults:
        tables.insert(5, fault_table(found))
    return Section(tables, [*real_time_bars(found, plan), *interval_bars], [batch_plot(found)])

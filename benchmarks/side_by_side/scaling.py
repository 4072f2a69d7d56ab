"""How the cost grows with the number of batches, the number of devices, the sampling period and the length of the run."""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .jobs import estimate, run_jobs
from .results import Bar, Cell, Plot, Progress, Scale, Section, Table

COMMAND = "python -m side_by_side --only scaling"
NAMES = ("ours", "zeus", "codecarbon", "carbontracker")
WEEK_S = 7 * 86400.0
MOST_BATCHES = 10_000_000
AT_ONCE = os.cpu_count() or 1

MEMORY_BAR_MB, RECORD_BAR_MB = 2.0, 1.0
EXACT = 1e-6
"""A total that is this close to the truth counts as exact: a week's last refresh of the counter holds about so much."""

NO_BATCH = Cell(None, note="It has no call for a batch.")
NOT_AT_THIS_SCALE = Cell(None, note="Not measured at this scale.")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        batches: Numbers of batches for each tool.
        gpus: Numbers of GPUs.
        periods: Sampling periods in s.
        idle_s: Length of a measurement of the processor's time.
        week_s: Length of the simulated run in s.
        week_interval_s: Its sampling period in s.
        repeats: How often the processor's time is measured.
    """

    batches: dict[str, Sequence[int]]
    gpus: Sequence[int]
    periods: Sequence[float]
    idle_s: float
    week_s: float
    week_interval_s: float
    repeats: int


PLANS: dict[Scale, Plan] = {
    "smoke": Plan({"ours": [1000, 10_000]}, [1], [0.05], 0.5, 3600, 2, 1),
    "quick": Plan(
        {"ours": [1000, 10_000, 100_000, 300_000], "zeus": [1000, 10_000], "codecarbon": [10]},
        [1, 8, 64],
        [0.01, 0.05, 1.0],
        1.0,
        WEEK_S,
        5,
        1,
    ),
    "full": Plan(
        {
            "ours": [1000, 10_000, 100_000, 1_000_000, MOST_BATCHES],
            "zeus": [1000, 10_000, 100_000, 1_000_000],
            "codecarbon": [10, 100, 1000],
        },
        [1, 2, 4, 8, 16, 32, 64],
        [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0],
        2.0,
        WEEK_S,
        0.5,
        3,
    ),
}

Job = dict[str, Any]
Found = dict[str, list[dict[str, Any]]]
"""What each job gave, once or several times, by the job as JSON."""


def key(job: Job) -> str:
    """Return a job as JSON."""
    return json.dumps(job, sort_keys=True)


def batch_job(tool: str, count: int) -> Job:
    """Return the job of so many batches."""
    return {"kind": "batches", "tool": tool, "count": count}


def idle_job(tool: str, gpus: int, plan: Plan) -> Job:
    """Return the job of a loop that sleeps beside so many GPUs."""
    batches = {"ours": 10_000, "zeus": 1000, "codecarbon": 10}.get(tool, 0)
    return {"kind": "idle", "tool": tool, "gpus": gpus, "seconds": plan.idle_s, "batches": batches}


def period_job(interval_s: float, plan: Plan) -> Job:
    """Return the job of a sampling period."""
    return {"kind": "period", "interval_s": interval_s, "seconds": plan.idle_s + 4 * interval_s}


def week_job(plan: Plan) -> Job:
    """Return the job of the long run."""
    return {"kind": "week", "seconds": plan.week_s, "interval_s": plan.week_interval_s}


def find(plan: Plan, progress: Progress) -> Found:
    """Do every job."""
    once = [week_job(plan)]
    once += [batch_job(tool, count) for tool, counts in plan.batches.items() for count in reversed(counts)]
    again = [idle_job(tool, gpus, plan) for gpus in plan.gpus for tool in NAMES]
    again += [period_job(interval_s, plan) for interval_s in plan.periods]
    again *= plan.repeats
    random.Random(0).shuffle(again)  # noqa: S311 - no secret
    jobs = once + again
    limits = {"week": 600.0, "batches": 300.0}  # for a slow machine; the others last as long as they say
    timed = [(job, limits.get(job["kind"], 10.0)) for job in jobs]
    found: Found = {}
    for job, result in zip(jobs, run_jobs("probe", timed, AT_ONCE, progress, "scaling"), strict=True):
        found.setdefault(key(job), []).append(result)
    return found


def cell(found: Found, job: Job, figure: str, unit: str) -> Cell:
    """Return one figure of a job, or why there is none."""
    results = found.get(key(job))
    if results is None:
        return NOT_AT_THIS_SCALE
    for result in results:
        if "error" in result:
            return Cell(None, unit=unit, note=result["error"])
        if result[figure] is None:
            return NO_BATCH
    return estimate([result[figure] for result in results], unit)


def batch_table(found: Found, plan: Plan) -> Table:
    """Return the table of time and memory by number of batches."""
    figures = (("us", "µs", "per batch"), ("traced_mb", "MB", "Python memory"), ("resident_mb", "MB", "process memory"))
    counts = sorted({count for some in plan.batches.values() for count in some})
    rows = {
        f"{count:,} batches": [
            cell(found, batch_job(tool, count), figure, unit) for tool in plan.batches for figure, unit, _ in figures
        ]
        for count in counts
    }
    columns = [f"{tool}, {words}" for tool in plan.batches for _, _, words in figures]
    about = (
        "A bare loop with one simulated GPU: ours with batch_start and batch_end, Zeus with begin_window and end_window, "
        "CodeCarbon with start_task and stop_task. Memory is its growth over this number of batches, after buffers of fixed "
        "size have filled up."
    )
    return Table("Cost by number of batches", columns, rows, COMMAND, about)


def device_table(found: Found, plan: Plan) -> Table:
    """Return the table of processor's time by number of GPUs."""
    figures = (("percent", "% of a core"), ("us", "µs"))
    rows = {
        f"{gpus} GPU{'s' * (gpus > 1)}": [
            cell(found, idle_job(tool, gpus, plan), figure, unit) for tool in NAMES for figure, unit in figures
        ]
        for gpus in plan.gpus
    }
    columns = [f"{tool}, {words}" for tool in NAMES for words in ("background", "per batch")]
    about = (
        "Background: CPU time of the whole process during a batch that sleeps. Per batch: time added to the loop by each "
        f"batch. Each tool uses its default sampling period. A measurement takes {plan.idle_s:g} s, so it contains hardly any "
        f"reading of CodeCarbon, which reads every 15 s. {AT_ONCE} processes ran at a time. Zeus does not sample GPUs that "
        "have an energy counter: it reads all of them at the start and end of each window."
    )
    return Table("Cost by number of devices", columns, rows, COMMAND, about)


def period_table(found: Found, plan: Plan) -> Table:
    """Return the table of processor's time by sampling period."""
    rows = {
        f"{interval_s * 1000:g} ms": [cell(found, period_job(interval_s, plan), "percent", "% of a core")]
        for interval_s in plan.periods
    }
    about = "Ours, one simulated GPU. Includes additional reads: the meter reads more often to find the counter's refreshes."
    return Table("Cost by sampling period", ["ours, background"], rows, COMMAND, about)


def week_table(found: Found, plan: Plan) -> Table:
    """Return the table of the long run."""
    figures = {
        "size of the record": ("bytes", "bytes"),
        "epochs in the record": ("epochs", ""),
        "slices of power": ("slices", ""),
        "total": ("joules", "J"),
        "error of the total": ("error_joules", "J"),
        "error of the time": ("error_seconds", "s"),
        "batches missing": ("missing_batches", ""),
        "rewriting the record at the end": ("review_percent", "% of a core"),
    }
    rows = {name: [cell(found, week_job(plan), figure, unit)] for name, (figure, unit) in figures.items()}
    about = (
        f"A run of {plan.week_s / 86400:g} days under a manual clock, with an epoch of two metrics each minute and batches of "
        f"0.97 s, on one scripted GPU polled every {plan.week_interval_s:g} s."
    )
    return Table("A long run", ["ours"], rows, COMMAND, about)


def bars(found: Found, plan: Plan) -> list[Bar]:
    """Return the targets."""
    count = max(plan.batches["ours"])
    (grown,) = found[key(batch_job("ours", count))]
    (week,) = found[key(week_job(plan))]
    asked = (f"at most {MEMORY_BAR_MB:g} MB", f"at most {RECORD_BAR_MB:g} MB", "within a millionth of the true value")
    names = ("memory growth over 10⁷ batches", "record of a simulated week", "total of a simulated week")
    if "error" in grown:
        memory = Bar(names[0], asked[0], grown["error"], held=None)
    else:
        got = f"{grown['traced_mb']:.3f} MB in Python, {grown['resident_mb']:.3f} MB in the process, over {count:,} batches"
        held = max(grown["traced_mb"], grown["resident_mb"]) <= MEMORY_BAR_MB
        memory = Bar(names[0], asked[0], got, held if count == MOST_BATCHES or not held else None)
    if "error" in week:
        return [memory, *(Bar(name, bar, week["error"], held=None) for name, bar in zip(names[1:], asked[1:], strict=True))]
    whole = plan.week_s == WEEK_S
    size = week["bytes"] / 1e6
    off = abs(week["error_joules"] / week["joules"])
    days = f"{plan.week_s / 86400:.3g} days"
    return [
        memory,
        Bar(names[1], asked[1], f"{size:.3f} MB, {week['epochs']:,} epochs, {days}", size <= RECORD_BAR_MB if whole else None),
        Bar(
            names[2],
            asked[2],
            f"{week['error_joules']:+.1f} J of {week['joules']:,.0f} J, {days}",
            off <= EXACT if whole else None,
        ),
    ]


def plots(found: Found, plan: Plan) -> list[Plot]:
    """Return the lines of the tables."""

    def lines(job_of, axis, figure, names):
        return {name: [(float(x), cell(found, job_of(name, x), figure, "").value) for x in axis(name)] for name in names}

    return [
        Plot(
            "scaling-memory",
            "Memory grown by a number of batches",
            "batches",
            "MB",
            lines(batch_job, plan.batches.__getitem__, "traced_mb", plan.batches),
            log_y=False,
        ),
        Plot(
            "scaling-devices",
            "Processor's time beside a loop that sleeps",
            "GPUs",
            "% of a core",
            lines(lambda name, gpus: idle_job(name, gpus, plan), lambda _: plan.gpus, "percent", NAMES),
        ),
        Plot(
            "scaling-window",
            "Time that the loop loses with each batch",
            "GPUs",
            "µs",
            lines(lambda name, gpus: idle_job(name, gpus, plan), lambda _: plan.gpus, "us", NAMES[:3]),
        ),
        Plot(
            "scaling-period",
            "Processor's time by sampling period",
            "sampling period in s",
            "% of a core",
            lines(lambda _, period: period_job(period, plan), lambda _: plan.periods, "percent", NAMES[:1]),
        ),
    ]


def measure(scale: Scale, progress: Progress) -> Section:
    """Measure everything."""
    plan = PLANS[scale]
    found = find(plan, progress)
    tables = [batch_table(found, plan), device_table(found, plan), period_table(found, plan), week_table(found, plan)]
    return Section(tables, bars(found, plan), plots(found, plan))

"""Overhead of the tools: time of a batch's hooks, slow-down of a real run, start and stop, threads, memory."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sampling import ratio

from .hardware import simulated_hardware
from .jobs import estimate, run_job, run_jobs
from .marks import EDGES, WINDOWS
from .results import Bar, Cell, Progress, Scale, Section, Table
from .tools import TOOLS

COMMAND = "python -m side_by_side --only overhead"
LOOPS = {"lightning": "Lightning", "keras": "Keras on TensorFlow", "bare": "bare loop"}
KINDS = ("none", "ours", WINDOWS, EDGES, "zeus", "codecarbon", "carbontracker")
PEERS = ("zeus", "codecarbon", "carbontracker")
MOST_US = 3.0
SHARE_OF = {"zeus": 6, "codecarbon": 300}
CALLS = {"zeus": "window", "codecarbon": "task"}
QUIETEST = 2.0
"""In percent: if the interval without a tool is wider, a relevant slow-down could not be detected."""
MILLION = 1_000_000
MANY = 8
"""GPUs of a machine on which the slow-down is measured, beside one."""
EPOCH_S = 0.05
"""Approximate duration of an epoch of the training run; it can be half of this."""
TWIN = "none again"

EPOCH_ALONE = "It samples power in a thread and has no call for a batch."
BARE_ALONE = "Windows are a function of the meter, not of the callback: see the bare loop."
NO_GPU = "The callback uses the events of a CUDA device, and this loop has none: see the bare loop."
ONLY_BARE = {WINDOWS: BARE_ALONE, EDGES: NO_GPU}
TOO_SLOW = "A million of its tasks take too long, and it stores each of them."


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    Attributes:
        processes: Processes for each loop.
        rounds: Rounds in each of them.
        batches: Batches of a round.
        runs: Training runs of each kind.
        epochs: Epochs of a training run; 45 batches each.
        lives: Processes for each tool's start and stop.
        million: Batches over which the memory is watched.
        at_once: Processes at a time, where their figures are compared.
        one_process: Whether all loops share one process, so that what they import is imported once.
    """

    processes: int
    rounds: int
    batches: int
    runs: int
    epochs: int
    lives: int
    million: int
    at_once: int = 1
    one_process: bool = False


SIZES: Mapping[Scale, Size] = {
    "smoke": Size(processes=1, rounds=1, batches=30, runs=1, epochs=1, lives=1, million=1000, at_once=3, one_process=True),
    "quick": Size(processes=1, rounds=3, batches=600, runs=12, epochs=80, lives=2, million=MILLION),
    "full": Size(processes=3, rounds=5, batches=2000, runs=8, epochs=400, lives=7, million=MILLION),
}


def measure(scale: Scale, progress: Progress) -> Section:
    """Measure all of it."""
    size = SIZES[scale]
    with simulated_hardware() as powercap:
        hooks, hook_bars = hook_times(size, progress)
        alone, rest = slow_down(size, 1, powercap, progress), [lives(size, powercap, progress), memory(size, progress)]
    with simulated_hardware(MANY) as powercap:
        slow, slow_bars = slow_table(size, {1: alone, MANY: slow_down(size, MANY, powercap, progress)})
    return Section([hooks, slow, *rest], [*hook_bars, *slow_bars])


# -------------------------------------------------------------------------------------------------------- hooks


def hook_times(size: Size, progress: Progress) -> tuple[Table, Sequence[Bar]]:
    """Return the time of a batch's hooks in excess of empty ones, and the targets for it."""
    loops = [loop for _ in range(size.processes) for loop in random.sample(list(LOOPS), len(LOOPS))]
    kinds = {
        loop: [kind for kind in KINDS if kind != "carbontracker" and (kind not in ONLY_BARE or loop == "bare")]
        for loop in LOOPS
    }
    options = {"job": "hooks", "rounds": size.rounds, "batches": size.batches}
    seconds = 20 + size.rounds * size.batches * 0.02
    jobs = [(options | {"loop": loop, "kinds": kinds[loop]}, seconds) for loop in loops]
    above = {loop: {kind: [] for kind in KINDS} for loop in LOOPS}
    errors = {loop: {} for loop in LOOPS}
    for loop, found in zip(loops, run_hooks(jobs, size, progress), strict=True):
        for kind in kinds[loop]:
            figures = found.get(kind, [found.get("error", "")])
            errors[loop].update((kind, figure) for figure in figures if isinstance(figure, str))
            pairs = zip(figures, found.get("none", []), strict=False)
            above[loop][kind] += [(a - b) / 1000 for a, b in pairs if not isinstance(a, str) and not isinstance(b, str)]

    def cell(kind, loop):
        if kind == "carbontracker":
            return Cell(None, note=EPOCH_ALONE)
        if kind in ONLY_BARE and loop != "bare":
            return Cell(None, note=ONLY_BARE[kind])
        return estimate(above[loop][kind], "µs", note=errors[loop].get(kind, ""))

    rows = {kind: [cell(kind, loop) for loop in LOOPS] for kind in KINDS if kind != "none"}
    about = (
        "Time of the two hooks of a batch together, in excess of an empty callback in the same process; medians over the "
        "batches, then over the rounds. There is one simulated GPU whose driver answers immediately, also for calls of other "
        "tools that the simulation does not implement. Ours marks the start and end of the batch, which gives its energy by "
        "phase; a window gives the energy of this single batch; the GPU events are those of a scripted GPU that answers "
        "immediately, so the value is the cost of our own code. Zeus begins and ends a window without approximation, "
        "CodeCarbon starts and stops a task. There is no logger: logging every 50 steps (the default) is additional. Later "
        "processing of the marks in our thread is included in the slow-down below."
    )
    table = Table("Time added to a batch by the hooks", list(LOOPS.values()), rows, COMMAND, about)
    return table, hook_bars({kind: dict(zip(LOOPS, row, strict=True)) for kind, row in rows.items()})


def run_hooks(jobs, size: Size, progress: Progress) -> Sequence[Mapping]:
    """Return what the jobs print, each in a process of its own, or all in one where only the harness is tried."""
    if not size.one_process:
        return run_jobs("work", jobs, size.at_once, progress, "time of the hooks")
    progress("time of the hooks")
    found = run_job("work", {"job": "several", "jobs": [job for job, _ in jobs]}, sum(seconds for _, seconds in jobs))
    return found if isinstance(found, list) else [found] * len(jobs)


def hook_bars(rows: Mapping[str, Mapping[str, Cell]]) -> Sequence[Bar]:
    """Return the targets for the hooks; each is met if it is met in every loop."""
    ours = {loop: cell.value for loop, cell in rows["ours"].items()}
    bars = [
        Bar(
            "Hooks of a batch in excess of an empty callback",
            f"at most {MOST_US:g} µs",
            in_each({loop: f"{figure:.2f} µs" for loop, figure in ours.items() if figure is not None}),
            None if None in ours.values() else max(ours.values()) <= MOST_US,
        )
    ]
    for peer, share in SHARE_OF.items():
        times = {
            loop: cell.value / ours[loop]
            for loop, cell in rows[peer].items()
            if cell.value is not None and ours[loop] is not None and ours[loop] > 0
        }
        bars.append(
            Bar(
                f"Hooks that mark a batch, compared with a {CALLS[peer]} of {peer}",
                f"at most 1/{share}",
                in_each({loop: f"1/{times[loop]:.1f}" for loop in times}) or rows[peer]["bare"].note,
                min(times.values()) >= share if len(times) == len(LOOPS) else None,
            )
        )
    return bars


def in_each(figures: Mapping[str, str]) -> str:
    """Return the values of the loops as text."""
    return ", ".join(f"{LOOPS[loop]} {figure}" for loop, figure in figures.items())


# -------------------------------------------------------------------------------------------------------- slow-down


def percent(times: Sequence[float], base: Sequence[float]) -> Cell:
    """Return the median relative difference of the runs of a round; a single run has no interval."""
    value, low, high = (100 * (figure - 1) for figure in ratio(times, base))
    return Cell(value, low, high, "%", count=len(base)) if len(base) > 1 else Cell(value, unit="%", count=1)


def slow_down(size: Size, gpus: int, powercap: str, progress: Progress) -> dict[str, Cell]:
    """Return the slow-down of a training run by each tool."""
    progress(f"slow-down of a training run, {count_of(gpus)}")
    kinds = ["none", TWIN, "ours", *PEERS]
    job = {"job": "training", "kinds": kinds, "rounds": size.runs, "epochs": size.epochs, "powercap": powercap}
    found = run_job("work", job, 20 + size.runs * len(kinds) * size.epochs * EPOCH_S)
    base = found.get("none", [])

    def cell(kind):
        times = found.get(kind, [found.get("error", "It gave no value.")])
        error = next((figure for figure in times if isinstance(figure, str)), None)
        return Cell(None, unit="%", note=error) if error else percent(times, base)

    return {kind: cell(kind) for kind in kinds[1:]}


def slow_table(size: Size, found: Mapping[int, Mapping[str, Cell]]) -> tuple[Table, list[Bar]]:
    """Return the slow-down by number of GPUs, and the targets for it."""
    about = (
        "Time of a training run (scikit-learn's digits, two layers in torch on one thread, batches of 32) compared with a run "
        "without a tool in the same round, in random order in one process; excludes the start and stop of the tool. One "
        f"processor. `{TWIN}` shows the noise. Ours marks the batches, Zeus has a window for each; CodeCarbon and "
        "carbontracker measure only the whole run: a CodeCarbon task takes longer than one of these batches, and "
        f"carbontracker has no call for a batch. {size.runs} runs of each."
    )
    rows = {kind: [cells[kind] for cells in found.values()] for kind in (TWIN, "ours", *PEERS)}
    table = Table("Slow-down of a small training run", [count_of(gpus) for gpus in found], rows, COMMAND, about)
    return table, [slow_bar(gpus, cells["ours"], cells[TWIN]) for gpus, cells in found.items()]


def slow_bar(gpus: int, ours: Cell, twin: Cell) -> Bar:
    """Return the target for the slow-down."""
    what = f"Slow-down of a small training run, {count_of(gpus)}"
    asked = "not above the interval of a second run without a tool"
    if ours.low is None or twin.low is None:
        return Bar(what, asked, ours.note or twin.note or "One run is not enough.", None)
    got = f"{ours.value:+.2f} % ({ours.low:+.2f} to {ours.high:+.2f}); no tool: {twin.low:+.2f} to {twin.high:+.2f}"
    if twin.high - twin.low > QUIETEST and ours.low <= twin.high:
        return Bar(what, asked, f"{got}; the machine is too noisy at present to decide", None)
    return Bar(what, asked, got, ours.value <= twin.high)


def count_of(gpus: int) -> str:
    """Return a number of GPUs as text."""
    return f"{gpus} GPU{'s' * (gpus > 1)}"


# -------------------------------------------------------------------------------------------------------- start, stop, memory


FIGURES = {
    "import_ms": ("import", "ms"),
    "start_ms": ("start", "ms"),
    "ready_ms": ("import and start", "ms"),
    "stop_ms": ("stop", "ms"),
    "threads": ("threads", ""),
    "processes": ("processes", ""),
    "grown_mb": ("memory", "MB"),
    "peak_mb": ("peak of the process", "MB"),
}


def lives(size: Size, powercap: str, progress: Progress) -> Table:
    """Return the cost of starting and stopping a tool, and what it starts."""
    names = [name for _ in range(size.lives) for name in random.sample(list(TOOLS), len(TOOLS))]
    options = {"job": "life", "powercap": powercap, "settle_s": 0.5, "hold_s": 0.5}
    jobs = [(options | {"tool": name}, 10.0) for name in names]
    ended = run_jobs("work", jobs, size.at_once, progress, "start and stop")
    found = {name: [life for other, life in zip(names, ended, strict=True) if other == name] for name in TOOLS}

    def cell(name, figure, unit):
        errors = [life["error"] for life in found[name] if "error" in life]
        return estimate([life[figure] for life in found[name] if figure in life], unit, note=errors[0] if errors else "")

    rows = {name: [cell(name, figure, unit) for figure, (_, unit) in FIGURES.items()] for name in TOOLS}
    about = (
        "Each value is from a new interpreter. Import: the import at the beginning of the tool's documentation. Start: from "
        "the options to the first reading (ours waits for a refresh), including later imports. Threads, processes and "
        "resident memory: while the tool measures one GPU and one processor, including its child processes. carbontracker has "
        "no network access to look up its location."
    )
    return Table("Start and stop", [name for name, _ in FIGURES.values()], rows, COMMAND, about)


def memory(size: Size, progress: Progress) -> Table:
    """Return the growth of memory with the batches."""
    jobs = [({"job": "memory", "tool": name, "batches": size.million}, 60.0) for name in ("ours", "zeus")]
    ours, zeus = run_jobs("work", jobs, 2, progress, f"memory of {size.million:,} batches")

    def cell(found):
        return Cell(found.get("grown_mb"), unit="MB", note=found.get("error", ""))

    rows = {
        "ours": [cell(ours)],
        "zeus": [cell(zeus)],
        "codecarbon": [Cell(None, unit="MB", note=TOO_SLOW)],
        "carbontracker": [Cell(None, unit="MB", note=EPOCH_ALONE)],
    }
    about = "Growth of the resident memory while a bare loop runs batches, after a warm-up of 10,000 batches."
    return Table(f"Memory after {size.million:,} batches", ["growth"], rows, COMMAND, about)

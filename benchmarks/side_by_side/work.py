"""Work on which the tools are measured: `python -m side_by_side.work '<job as JSON>'`, in a separate process.

A job contains the name of a function of this module and its arguments; the result is printed as JSON. No part of a tool is
imported at the top of this module, because the time of the imports is measured, too.
"""

import importlib
import json
import os
import random
import resource
import statistics
import sys
import time
import warnings
from pathlib import Path

IMPORTS = {
    "none": "pass",
    "ours": "import ml_energy_callbacks",
    "zeus": "from zeus.monitor import ZeusMonitor",
    "codecarbon": "from codecarbon import OfflineEmissionsTracker",
    "carbontracker": "from carbontracker.tracker import CarbonTracker",
}
"""The import at the beginning of each tool's documentation."""

SETTINGS = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
WARM_UP = 10_000
BATCH_S = 0.1
PAGE = resource.getpagesize()


def in_turns(kinds, rounds, run) -> dict[str, list]:
    """Run each kind once per round, each round in another order; return the results, or the error's text, by kind."""
    found = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in random.sample(kinds, len(kinds)):
            try:
                found[kind].append(run(kind))
            except Exception as error:  # noqa: BLE001 - an error of another tool is a result
                found[kind].append(f"{type(error).__name__}: {error}")
    return found


def hooks(loop, kinds, rounds, batches) -> dict[str, list]:
    """Return the median time of the hooks of a batch in ns for each round, by tool."""
    module = importlib.import_module(f"side_by_side.loop_{loop}")
    return in_turns(kinds, rounds, lambda kind: statistics.median(module.run(kind, batches)))


def training(kinds, rounds, epochs, powercap) -> dict[str, list]:
    """Return the time of a training run in s for each round; `none` and `none again` are the same.

    CodeCarbon measures only the whole run: a task takes longer than one of these batches.
    """
    from .loop_bare import Digits
    from .marks import marking
    from .tools import Place

    digits, place = Digits(), Place(powercap=Path(powercap))

    def run(kind):
        name = kind.split()[0]
        with marking(name, place, batches=name != "codecarbon") as marks:
            return digits.train(epochs, marks.begin, marks.end)

    run("none")
    return in_turns(kinds, rounds, run)


def memory(tool, batches) -> dict[str, float]:
    """Return the memory growth in MB over this number of batches, and the time of one in µs."""
    from .marks import marking
    from .tools import Place

    with marking(tool, Place()) as marks:
        for _ in range(WARM_UP):
            marks.begin()
            marks.end()
        before, began = resident(), time.perf_counter()
        for _ in range(batches):
            marks.begin()
            marks.end()
        grown, seconds = resident() - before, time.perf_counter() - began
    return {"grown_mb": grown / 1e6, "batch_us": seconds / batches * 1e6}


def life(tool, powercap, settle_s, hold_s) -> dict[str, float]:
    """Import a tool, start it, measure batches of 0.1 s, and stop it.

    Args:
        tool: Name of the tool.
        powercap: Root of the simulated powercap tree.
        settle_s: Time in s after the start until threads and processes of the tool have started up.
        hold_s: Time in s during which its CPU time is measured.
    """
    threads, memory_before, began = thread_count(), resident(), time.perf_counter()
    exec(IMPORTS[tool])  # noqa: S102 - one of those above
    imported = time.perf_counter()

    from .marks import marks_of, open_tool
    from .tools import Place

    batches = tool != "codecarbon"
    starting = time.perf_counter()
    measuring = open_tool(tool, Place(powercap=Path(powercap)), batches=batches)
    measuring.start()
    started = time.perf_counter()
    marks = marks_of(tool, measuring, batches=batches)
    time.sleep(settle_s)
    held, cpu = time.perf_counter(), cpu_seconds()
    while time.perf_counter() < held + hold_s:
        marks.begin()
        time.sleep(BATCH_S)
        marks.end()
    share = (cpu_seconds() - cpu) / (time.perf_counter() - held)
    found = {
        "import_ms": (imported - began) * 1000,
        "start_ms": (started - starting) * 1000,
        "ready_ms": (imported - began + started - starting) * 1000,
        "threads": thread_count() - threads,
        "processes": len(descendants()),
        "grown_mb": (resident() + sum(resident(process) for process in descendants()) - memory_before) / 1e6,
        "peak_mb": peak() / 1e6,
        "cpu_share": share,
    }
    stopping = time.perf_counter()
    measuring.stop()
    return found | {"stop_ms": (time.perf_counter() - stopping) * 1000}


def thread_count() -> int:
    """Return the number of this process's threads, including those of libraries."""
    return len(list(Path("/proc/self/task").iterdir()))


def resident(process="self") -> int:
    """Return a process's resident memory in bytes; 0 if it has just ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * PAGE
    except OSError:
        return 0


def peak() -> int:
    """Return the peak resident memory of this process in bytes; `ru_maxrss` would include the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def stat(process) -> list[str]:
    """Return the fields of a process's `stat` after its name; none if it has just ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def descendants() -> list[int]:
    """Return the ids of all descendants of this process."""
    children = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if fields := stat(folder.name):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, ahead = [], [os.getpid()]
    while ahead:
        new = children.get(ahead.pop(), [])
        found += new
        ahead += new
    return found


def cpu_seconds() -> float:
    """Return the CPU time of this process and its descendants in s."""
    ticks = sum(int(fields[11]) + int(fields[12]) for process in descendants() if (fields := stat(process)))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def several(jobs) -> list:
    """Do jobs one after another in this process, where it is not their figures that matter."""
    return [do(job) for job in jobs]


JOBS = {function.__name__: function for function in (hooks, training, memory, life, several)}


def do(job):
    """Return what a job returns."""
    return JOBS[job["job"]](**{name: value for name, value in job.items() if name != "job"})


def main() -> None:
    """Run the job given on the command line, and print its result."""
    warnings.simplefilter("ignore")
    os.environ |= SETTINGS
    print(json.dumps(do(json.loads(sys.argv[1]))), flush=True)


if __name__ == "__main__":
    main()

"""Energy used by the measurement itself, estimated from the CPU time of the process and its child processes."""

from collections.abc import Mapping

from .hardware import simulated_hardware
from .jobs import estimate, run_jobs
from .results import Cell, Progress, Scale, Section, Table
from .tools import TOOLS

COMMAND = "python -m side_by_side --only own-energy"
WATTS_PER_CORE = 7.0
"""Of a busy core; 270 W over 40 cores of an Intel Xeon Platinum 8380 are 6.75 W. The energies scale with it."""
SECONDS_PER_HOUR = 3600
SETTLE_S: Mapping[Scale, float] = {"smoke": 0.1, "quick": 4.0, "full": 10.0}
HOLD_S: Mapping[Scale, float] = {"smoke": 0.3, "quick": 8.0, "full": 60.0}
ROUNDS: Mapping[Scale, int] = {"smoke": 1, "quick": 1, "full": 3}


def measure(scale: Scale, progress: Progress) -> Section:
    """Measure the CPU time of each tool in processes of their own."""
    names = [name for _ in range(ROUNDS[scale]) for name in TOOLS]
    with simulated_hardware() as powercap:
        options = {"job": "life", "powercap": powercap, "settle_s": SETTLE_S[scale], "hold_s": HOLD_S[scale]}
        jobs = [(options | {"tool": name}, SETTLE_S[scale] + HOLD_S[scale]) for name in names]
        # They sleep nearly all the time, so that five do not disturb each other.
        lives = run_jobs("work", jobs, len(TOOLS), progress, "energy of its own")
    found = {name: [life for other, life in zip(names, lives, strict=True) if other == name] for name in TOOLS}
    idle = [life["cpu_share"] for life in found["none"] if "cpu_share" in life]
    floor = sum(idle) / len(idle) if idle else None

    def row(name) -> list[Cell]:
        if floor is None:
            return [Cell(None, unit=unit, note="The loop without a tool gave no value.") for unit in ("ms/s", "J/h")]
        errors = next((life["error"] for life in found[name] if "error" in life), "")
        shares = [life["cpu_share"] - floor for life in found[name] if "cpu_share" in life]
        joules = [max(0.0, share) * WATTS_PER_CORE * SECONDS_PER_HOUR for share in shares]
        return [estimate([share * 1000 for share in shares], "ms/s", note=errors), estimate(joules, "J/h", note=errors)]

    about = (
        "CPU time while a tool measures one GPU and one processor for a loop that sleeps 0.1 s per batch, in excess of the "
        f"loop without a tool, after {SETTLE_S[scale]:g} s to settle. Energy is CPU time times {WATTS_PER_CORE:g} W for a busy "
        "core, which is an assumption: a server's 270 W divided by its 40 cores. Each tool uses its default interval: 0.05 s "
        "for ours, 15 s for CodeCarbon (1 s for its monitor; a shorter measurement contains none of its readings), 1 s for "
        "carbontracker. CodeCarbon's batches are not marked. Zeus reads at the start and end of a window, here of each batch. "
        "The energy to wake a core is not included."
    )
    rows = {name: row(name) for name in TOOLS if name != "none"}
    return Section([Table("Energy used by the tool itself", ["CPU time", "energy"], rows, COMMAND, about)])

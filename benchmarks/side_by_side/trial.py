"""Run one tool in one simulation, in real time: `python -m side_by_side.trial '<job as JSON>'`, in a separate process.

It prints the values reported by the tool and the true values, as JSON.
"""

import json
import sys
import tempfile
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from .tools import CodeCarbon, Ours, Question, Tool, make
from .worlds import ASLEEP_WATTS, COMPUTE_WATTS, SPREAD, WAIT_WATTS, Spec, World

SETTLE_S = 0.3
"""Wait after the last window, so that every tool can report it; it is part of the run."""


class Loop:
    """A training loop, and its true energy.

    Attributes:
        total: True energy of the run in J.
        wait: True energy of the waits for data in J.
        windows: True energy of each batch's computing and of each epoch in J.
    """

    def __init__(self, spec: Spec, world: World, tool: Tool, question: Question) -> None:
        """Prepare the loop for a tool and the windows of a question."""
        self.total = self.wait = 0.0
        self.windows: dict[str, float] = {}
        self._spec = spec
        self._world = world
        self._tool = tool
        self._question = question
        self._single = question in {"batch", "split"}
        # Ours marks every batch, as its documentation says. A tool whose tasks leave gaps between them also gets a task for
        # each wait.
        self._meter = tool.meter if isinstance(tool, Ours) and not self._single else None
        self._waits = self._single and isinstance(tool, CodeCarbon)
        self._batches = 0
        self._wait_began = 0.0

    def play(self) -> None:
        """Execute the run."""
        spec = self._spec
        began = self._wait_began = self._world.draw(WAIT_WATTS)
        start = monotonic()
        for epoch in range(spec.epochs):
            epoch_began = self._world.draw(WAIT_WATTS)
            if self._question == "epoch":
                self._tool.begin(f"epoch {epoch}")
            while monotonic() < start + spec.seconds * (epoch + 1) / spec.epochs:
                self._play_batch()
            if self._question == "epoch":
                self._tool.end(f"epoch {epoch}")
            self.windows[f"epoch {epoch}"] = self._world.draw(WAIT_WATTS) - epoch_began
        if self._question != "total":
            sleep(SETTLE_S)
        ended = self._world.draw(ASLEEP_WATTS)
        self.wait += ended - self._wait_began
        self.total = ended - began

    def _play_batch(self) -> None:
        spec, world, key = self._spec, self._world, f"batch {self._batches}"
        self._batches += 1
        wait_key = f"wait for {key}"
        if self._waits:
            self._tool.begin(wait_key)
        sleep(spec.wait_s * world.vary(SPREAD))
        if self._waits:
            self._tool.end(wait_key)
        if self._single:
            self._tool.begin(key)
        elif self._meter:
            self._meter.batch_start()
        began = world.draw(COMPUTE_WATTS)
        sleep(spec.batch_s * world.vary(SPREAD))
        ended = world.draw(WAIT_WATTS)
        if self._single:
            self._tool.end(key)
        elif self._meter:
            self._meter.batch_end()
        self.windows[key] = ended - began
        self.wait += began - self._wait_began
        self._wait_began = ended


def wait_joules(tool: Tool, windows: dict[str, float | None]) -> tuple[float | None, list[float | None], str]:
    """Return the energy of the waits that a tool reports, the interval that it states, and the reason if there is none."""
    if isinstance(tool, Ours):
        phase = tool.meter.record.stages["train"].phases["data_wait"]
        return phase.joules, [phase.low_joules, phase.high_joules], phase.reason or ""
    waits = [joules or 0.0 for key, joules in windows.items() if key.startswith("wait")]
    if waits:
        return sum(waits), [], ""
    total = tool.total_joules()
    return None if total is None else total - sum(joules or 0.0 for joules in windows.values()), [], ""


def run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a tool, and return pairs of reported and true values."""
    spec, question = Spec(**job["spec"]), job["question"]
    world = World(spec, folder)
    with world.alive():
        tool = make(job["tool"], world.place, question)
        tool.start()
        world.schedule_fault()
        loop = Loop(spec, world, tool, question)
        loop.play()
        tool.stop()
    windows = tool.windows()
    found: dict[str, Any] = {
        "total": [tool.total_joules(), loop.total],
        "windows": [[joules, loop.windows[key]] for key, joules in windows.items() if key in loop.windows],
        "note": "",
    }
    if question == "split":
        said, interval, found["note"] = wait_joules(tool, windows)
        found["wait"] = [said, loop.wait, *interval]
    if isinstance(tool, Ours):
        if not tool.meter.record.devices:
            msg = f"No device was found: {tool.meter.discovery.unavailable} {tool.meter.record.warnings}"
            raise RuntimeError(msg)
        found["missing_s"] = max(device.missing_s for device in tool.meter.record.devices)
    return found


def main() -> None:
    """Run the job given on the command line, and print its result."""
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(json.loads(sys.argv[1]), Path(folder))))


if __name__ == "__main__":
    main()

"""Measured power of real GPUs as the marks and readings of a replay, where the data lie beside the checkout."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "gpu-traces"
NAMES = ("rtx3090-square", "rtx3090-step", "rtx4090-step", "a5000-step")

_POLL_S, _DITHER = 0.05, 0.4
_BURST_S, _BURST_STEP_S = 0.5, 0.001
"""A meter reads a counter often at first, to learn its refreshes."""

Mark = tuple[float, Any, Any]


@dataclass(frozen=True)
class Trace:
    """A GPU under a load that begins and ends again and again, by a power meter at 4.8 kHz.

    Attributes:
        edges_s: The host's marks: a load begins, ends, the next one begins ...
        readings: What each power reading of the driver showed, by its name: when it was polled (s), and W.
    """

    edges_s: Any
    readings: dict[str, tuple[Any, Any]]
    _meter_s: Any
    _joules: Any

    def joules(self, time_s: Any) -> Any:
        """Return the true energy up to an instant, or several."""
        return np.interp(time_s, self._meter_s, self._joules)

    def marks(self, shift_s: float = 0.0) -> list[Mark]:
        """Return the marks of a training whose batches are the loads, each so much later than the load."""
        phases = ("compute", "data_wait")
        marks: list[Mark] = [(edge + shift_s, "train", phases[i % 2]) for i, edge in enumerate(self.edges_s[:-1])]
        return [*marks, (self.edges_s[-1] + shift_s, None, None)]

    def true_joules(self, phase: str | None = None) -> float:
        """Return the true energy from the first to the last edge, or of a phase."""
        parts = np.diff(self.joules(self.edges_s))
        return float({"compute": parts[::2], "data_wait": parts[1::2], None: parts}[phase].sum())

    def counter(self, refresh_s: float, offset_s: float = 0.0, seed: int = 0) -> list[tuple[float, float]]:
        """Return what polls see of a counter of the true energy that refreshes on a grid."""
        polls = np.array(list(_polls(self._meter_s[0], self._meter_s[-1], random.Random(seed))))
        refreshed = np.floor((polls - offset_s) / refresh_s) * refresh_s + offset_s
        return list(zip(polls.tolist(), self.joules(refreshed).tolist(), strict=True))

    def power(self, name: str = "power_draw", seed: int = 0) -> list[tuple[float, float]]:
        """Return what polls see of a power reading of the driver, as it was recorded."""
        times, watts = self.readings[name]
        polls = np.array(list(_polls(times[0], times[-1], random.Random(seed))))
        seen = np.searchsorted(times, polls, side="right") - 1
        return list(zip(polls.tolist(), watts[seen].tolist(), strict=True))


def _polls(begin_s: float, end_s: float, rng: random.Random) -> Iterator[float]:
    """Yield when a meter polls: often at first, and then at dithered intervals."""
    now = begin_s
    while now < end_s:
        yield now
        now += _BURST_STEP_S if now < begin_s + _BURST_S else _POLL_S * (1 + _DITHER * (2 * rng.random() - 1))


def load_trace(name: str) -> Trace:
    """Return a measured trace; the test is skipped where it is not at hand."""
    path = FOLDER / f"{name}.npz"
    if not path.is_file():
        msg = f"The measured traces are not at hand: {path} does not exist."
        raise SkipTest(msg)
    return read_trace(path)


def read_trace(path: Path) -> Trace:
    """Return the measured trace in a file."""
    with np.load(path) as data:
        steps = np.diff(data["meter_s"]) * (data["meter_w"][1:] + data["meter_w"][:-1]).astype(float) / 2
        return Trace(
            edges_s=data["mark_s"][::2],  # each is there twice: an end, and the beginning of what follows
            readings={key: (data["reading_s"], data[key]) for key in data if key.startswith("power_draw")},
            _meter_s=data["meter_s"],
            _joules=np.concatenate([[0.0], np.cumsum(steps)]),
        )

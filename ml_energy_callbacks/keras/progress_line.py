"""Keras's progress bar: the energy of an epoch in a line of its own, short enough for 80 columns."""

import sys
from collections.abc import Mapping
from math import isnan
from typing import Any, TypeGuard

import keras

from ml_energy_callbacks.keras.loop import KerasLoop
from ml_energy_callbacks.metrics import JOULES_PER_KWH, JOULES_PER_WH
from ml_energy_callbacks.report.quantities import scaled


class _ShortBar(keras.callbacks.ProgbarLogger):
    """Keras's progress bar without our metrics, among which the loss would be hidden; they follow in a line of their own."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        logs = logs or {}
        super().on_epoch_end(epoch, {name: value for name, value in logs.items() if not name.startswith("energy/")})
        line = progress_line(logs)
        if line and self.verbose:
            sys.stdout.write(f"{line}\n")


def progress_line(metrics: Mapping[str, Any]) -> str:
    """Return watts, J/sample, J/token and the energy so far of an epoch's logs in a line; empty where nothing is known."""
    rates = (("watts", "W"), ("joules_per_sample", "J/sample"), ("joules_per_token", "J/token"))
    kwh, expected = metrics.get("energy/total/kwh"), metrics.get("energy/forecast/kwh")
    parts = [scaled(value, unit, 3) for name, unit in rates if _known(value := metrics.get(f"energy/train/{name}"))]
    if _known(kwh):
        so_far = scaled(kwh * JOULES_PER_KWH / JOULES_PER_WH, "Wh", 3)
        whole = f" of {scaled(expected * JOULES_PER_KWH / JOULES_PER_WH, 'Wh', 2)} expected" if _known(expected) else " so far"
        parts.append(so_far + whole)
    return f"Energy: {', '.join(parts)}" if parts else ""


def _known(value: float | None) -> TypeGuard[float]:
    """Return whether a value is there; it is NaN where it became unknown in a later epoch."""
    return value is not None and not isnan(value)


def shorten_progress_bar(loop: KerasLoop) -> None:
    """Shorten Keras's own progress bar at the end of an epoch; a bar of the user's class shows what it likes."""
    for bar in loop.callbacks:
        if type(bar) is keras.callbacks.ProgbarLogger:
            bar.__class__ = _ShortBar

"""Times of the layers in a training, on a few of its steps."""

import contextlib
import sys
from collections.abc import Iterator
from numbers import Integral
from typing import Any

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference.layers.results import LayerCost, LayerProfile, rest_of
from ml_energy_callbacks.inference.layers.stopwatch import Stopwatch, timing_of
from ml_energy_callbacks.inference.layers.tree import find_layers
from ml_energy_callbacks.meter.options import is_flag
from ml_energy_callbacks.metrics import ratio
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.safe_text import describe

_BY_TIME = "The energy is divided by time, as if all layers had the same power; profile_layers measures that of each."


class LayerTimer:
    """Times the layers of a torch module on one training step in some, by hooks that are there in these steps alone.

    Give a callback ``layers_every_n_steps`` to use one; in any other loop, use it itself::

        timer = LayerTimer(model, every_n_steps=100)
        for batch in data:
            with timer.step():
                ...  # forward, backward, optimizer
        print(timer.profile().to_text())

    The first step is never timed. On a GPU, events show when it begins and ends a layer; nothing waits for them.
    """

    def __init__(self, module: Any, *, depth: int = 2, every_n_steps: int = 100) -> None:  # noqa: ANN401 - a torch module
        """Time the layers of a module.

        Args:
            module: The network, already where it is trained: on the processor or on one GPU of CUDA or ROCm.
            depth: 1 for the parts of the network, 2 for the parts of these, too, and so on.
            every_n_steps: Number of steps of which one is timed.

        Raises:
            ConfigurationError: An option is invalid, or the module has no layers that can be timed; the message says what to
                do.
        """
        steps: object = every_n_steps
        if is_flag(steps) or not isinstance(steps, Integral) or steps < 1:
            msg = f"every_n_steps is {describe(every_n_steps)}; give a whole number of steps from 1 upwards, such as 100."
            raise ConfigurationError(msg)
        self._module = module
        self._layers = find_layers(module, depth)
        self._stopwatch = Stopwatch(self._layers, timing_of([*module.parameters(), *module.buffers()]))
        self._every = int(steps)
        self._count = 0
        self._timed = False

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Run a training step, which may be timed."""
        try:
            self.begin_step()
            yield
        except BaseException:
            self.cancel_step()
            raise
        self.end_step()

    def begin_step(self) -> None:
        """Begin a training step."""
        self._count += 1
        self._timed = self._count > 1 and self._count % self._every == 0 and not _in_graph()
        if self._timed:
            self._stopwatch.start()

    def end_step(self) -> None:
        """End the training step."""
        if self._timed:
            self._timed = False
            self._stopwatch.stop()

    def cancel_step(self) -> None:
        """Leave out a step that has not ended, such as one that failed."""
        self._timed = False
        self._stopwatch.cancel()

    def profile(self, record: RunRecord | None = None) -> LayerProfile:
        """Return the mean times of the timed steps so far.

        Args:
            record: Record of the training, whose mean power while it computes gives each layer's energy, in proportion to its
                time: an estimate. None for the times alone.
        """
        self._stopwatch.resolve()
        steps = self._stopwatch.steps
        seconds = self._stopwatch.seconds / max(1, steps)
        watts, reason = _computing_watts(record)
        layers = [
            LayerCost(
                name=layer.name,
                kind=type(layer.module).__name__,
                depth=layer.depth,
                calls=times.calls / steps,
                seconds=(times.forward + times.backward) / steps,
                time_share=ratio(times.forward + times.backward, self._stopwatch.seconds) or 0.0,
                forward_seconds=times.forward / steps,
                backward_seconds=times.backward / steps,
                reason=reason,
            )
            for layer, times in zip(self._layers, self._stopwatch.times, strict=True)
            if times.calls
        ]
        rest = rest_of(seconds, layers, reason)
        whole = LayerCost(name="step", kind="", depth=0, calls=1, seconds=seconds, time_share=1.0, reason=reason)
        if watts is not None:
            for cost in (whole, *layers, rest):
                cost.joules, cost.joules_share = watts * cost.seconds, cost.time_share
        return LayerProfile(
            module=type(self._module).__name__,
            method="time",
            whole=whole,
            layers=layers,
            rest=rest,
            steps=steps,
            blocks=0,
            provenance=None if watts is None else "estimated",
            relative_uncertainty=None,
            devices=[] if record is None else [device.id for device in record.devices],
            seconds=self._stopwatch.seconds,
            notes=list(self._notes(watts)),
        )

    def _notes(self, watts: float | None) -> Iterator[str]:
        if not self._stopwatch.steps:
            yield f"No step was timed in {self._count} steps; lower the number of steps of which one is timed."
        if watts is not None:
            yield _BY_TIME
        if self._stopwatch.error is not None:
            yield f"Some steps could not be timed ({describe(self._stopwatch.error)})."


def _in_graph() -> bool:
    """Return whether a CUDA graph is being captured, of which events would become a part."""
    cuda: Any = sys.modules["torch"].cuda
    return bool(cuda.is_initialized() and cuda.is_current_stream_capturing())


def _computing_watts(record: RunRecord | None) -> tuple[float | None, str | None]:
    """Return the mean power of a training while it computes in W; if it is unknown, None and the reason."""
    if record is None:
        return None, "The times alone show no energy: pass the record of the training, or use profile_layers."
    stage = record.stages.get("train")
    phase = None if stage is None else stage.phases.get("compute")
    if phase is None:
        return None, "The record has no training."
    if phase.joules is None or not phase.seconds:
        return None, phase.reason or "No device could be read."
    return phase.joules / phase.seconds, None

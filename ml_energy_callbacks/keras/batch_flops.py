"""FLOPs of one batch of each stage of a Keras loop, counted by the backend as it runs the batch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import keras

from ml_energy_callbacks.frameworks.guard import guarded
from ml_energy_callbacks.keras import internals
from ml_energy_callbacks.keras.compiling import FUNCTIONS
from ml_energy_callbacks.keras.hlo import loops_over_products
from ml_energy_callbacks.keras.samples import length_of
from ml_energy_callbacks.keras.traits import unwrapped
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.metrics import Stage

XLA_METHOD = "XLA cost analysis"
"""How the FLOPs of a sample are known with JAX, for the record."""


class _Backend(Protocol):
    """Counts a batch of each stage."""

    def begin_run(self) -> None:
        """Count once more in each stage."""

    def due(self, stage: str) -> bool:
        """Return whether a batch of the stage is still to be counted."""

    def run(self, stage: Stage, model: Any, function: Callable[..., Any], *args: Any) -> Any:
        """Run a batch with the model's own function, and count it."""


class BatchFlops:
    """Has one batch of each stage counted: for that batch, another function takes the place of the model's own.

    Args:
        meter: The meter, which is told the FLOPs of a sample.
    """

    def __init__(self, meter: EnergyMeter) -> None:
        self._meter = meter
        kinds: Mapping[str, Callable[[EnergyMeter], _Backend]] = {"torch": _Torch, "jax": _Jax}
        self._backend = kinds.get(keras.backend.backend(), _Uncounted)(meter)
        self._restore: Callable[[], None] | None = None

    def begin_run(self) -> None:
        """Count once more in each stage: another start of the meter may have another model."""
        self._backend.begin_run()

    @guarded
    def begin(self, stage: Stage, model: Any) -> None:
        """Begin a batch."""
        if self._restore is not None:  # the last one never ran
            self._restore()
        name, own = FUNCTIONS.get(stage), unwrapped(model)
        function = None if name is None or not self._backend.due(stage) else getattr(own, name, None)
        if name is None or function is None:
            return

        def restore() -> None:
            self._restore = None
            setattr(own, name, function)

        def counted(*args: Any) -> Any:
            restore()
            return self._backend.run(stage, own, function, *args)

        self._restore = restore
        setattr(own, name, counted)


class _Uncounted:
    """Counts nothing, and says so."""

    def __init__(self, meter: EnergyMeter) -> None:
        self._meter = meter
        self._done: set[str] = set()

    def begin_run(self) -> None:
        self._done.clear()

    def due(self, stage: str) -> bool:
        if stage not in self._done:
            self._done.add(stage)
            if not self._meter.knows_flops(stage):
                backend = keras.backend.backend()
                self._meter.warn(
                    f"FLOPs of {stage} are unknown, as they are not counted with {backend}: give flops_per_sample."
                )
        return False

    def run(self, stage: Stage, model: Any, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


class _Torch:
    """Counts the operators of a batch."""

    def __init__(self, meter: EnergyMeter) -> None:
        from ml_energy_callbacks.frameworks.torch_flops import StepFlops  # noqa: PLC0415 - another backend needs no torch

        self._steps = StepFlops(meter)
        self.begin_run, self.due = self._steps.begin_run, self._steps.due

    def run(self, stage: Stage, model: Any, function: Callable[..., Any], *args: Any) -> Any:
        with self._steps.batch(stage, model, length_of(args[0][0])):
            return function(*args)


class _Jax:
    """Has XLA analyse the program of a batch: it is traced once, as without this, and changes nothing of the batch."""

    def __init__(self, meter: EnergyMeter) -> None:
        self._meter = meter
        self._done: set[str] = set()

    def begin_run(self) -> None:
        self._done.clear()

    def due(self, stage: str) -> bool:
        return stage not in self._done

    def run(self, stage: Stage, model: Any, function: Callable[..., Any], state: Any, iterator: Any) -> Any:
        return function(state, self._observed(stage, function, state, iterator))

    def _observed(self, stage: Stage, function: Any, state: Any, iterator: Any) -> Iterator[Any]:
        """Yield the batches, the first one once it is analysed."""
        for batch in iterator:
            if self.due(stage):
                self._done.add(stage)
                self._analyse(stage, function, state, batch)
            yield batch

    @guarded
    def _analyse(self, stage: Stage, function: Any, state: Any, batch: Any) -> None:
        if self._meter.knows_flops(stage):  # the user gave them
            return
        found = self._flops(function, state, batch)
        samples = length_of(batch)
        if isinstance(found, float) and not samples:
            found = "the number of samples of the batch is unknown"
        if isinstance(found, str) or not samples:
            self._meter.warn(f"FLOPs of {stage} are unknown, as {found}: give flops_per_sample.")
        else:
            self._meter.set_flops_per_sample(stage, found / samples, XLA_METHOD)

    @staticmethod
    def _flops(function: Any, state: Any, batch: Any) -> float | str:
        """Return the FLOPs of a batch, or why they are not known."""
        step = internals.jitted_step(function)
        if step is None:
            return "the model is not compiled as one function"
        if keras.distribution.distribution() is not None:
            return "the model is distributed over several devices"
        lowered = step.lower(state, batch)
        try:
            cost = lowered.cost_analysis()
        except NotImplementedError:
            return "XLA has no analysis for this device"
        if not cost or not cost.get("flops", 0.0) > 0:
            return "XLA reports none"
        if loops_over_products(lowered.as_text("hlo")):
            return "XLA does not know how often a loop of the model runs, as in a recurrent layer"
        return float(cost["flops"])

"""The options of a callback: those of a meter, and six more."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any, Literal

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.options import MeterOptions, documents, is_flag
from ml_energy_callbacks.safe_text import describe


@documents(MeterOptions)
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CallbackOptions(MeterOptions):
    """The options of a callback.

    Args:
        batch_size_fn: Function that is given a batch and returns its number of samples; None to infer it from the arrays'
            shapes.
        count_fn: Function that is given a batch and returns its number of tokens; None where tokens are not counted.
        count_flops: Whether to count the floating-point operations of one batch of each stage that ``flops_per_sample`` does
            not have, with torch and JAX. That batch takes longer; its results stay the same.
        log_every_n_steps: Number of steps between two logs of the training steps' energy; None for the framework's own
            setting, 0 for no such logs.
        layers_every_n_steps: Number of training steps of which one is timed layer by layer, for the callback's ``layers``; None
            for no such times. It requires torch.
        parts: Whether the batches of the training are divided into ``transfer``, ``forward``, ``backward`` and ``optimizer``.
            Where the framework runs them as one, the record says so.
        metrics: Which metrics are logged: ``"core"`` for watts, J/sample, the run's kWh, grams and cost, and the kWh expected;
            ``"all"`` for every one. A metric that a callback of the training monitors is there in any case.
        verbose: Whether to log warnings, and what each run used at its end.
    """

    batch_size_fn: Callable[[Any], int] | None = None
    count_fn: Callable[[Any], int] | None = None
    count_flops: bool = False
    log_every_n_steps: int | None = None
    layers_every_n_steps: int | None = None
    parts: bool = False
    metrics: Literal["core", "all"] = "core"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ConfigurationError: An option cannot work; the message says what to do.
        """
        super().__post_init__()
        steps: object = self.log_every_n_steps
        if steps is not None and (is_flag(steps) or not isinstance(steps, Integral) or steps < 0):
            msg = f"log_every_n_steps is {describe(steps)}; give a number of steps, 0 for no step logs, or leave it out."
            raise ConfigurationError(msg)
        every: object = self.layers_every_n_steps
        if every is not None and (is_flag(every) or not isinstance(every, Integral) or every < 1):
            msg = f"layers_every_n_steps is {describe(every)}; give a whole number of steps, such as 100, or leave it out."
            raise ConfigurationError(msg)
        if not is_flag(self.parts):
            msg = f"parts is {describe(self.parts)}; give True to divide the training's batches into parts, or False."
            raise ConfigurationError(msg)
        metrics: object = self.metrics
        if not isinstance(metrics, str) or metrics not in {"core", "all"}:
            msg = f"metrics is {describe(metrics)}; give 'core' for the few metrics that most runs need, or 'all'."
            raise ConfigurationError(msg)
        if not is_flag(self.count_flops):
            msg = f"count_flops is {describe(self.count_flops)}; give True or False."
            raise ConfigurationError(msg)
        functions: tuple[tuple[str, object, str], ...] = (
            ("batch_size_fn", self.batch_size_fn, "samples"),
            ("count_fn", self.count_fn, "tokens"),
        )
        for name, given, what in functions:
            if given is not None and not callable(given):
                msg = f"{name} is {describe(given)}; give a function that takes a batch and returns its number of {what}."
                raise ConfigurationError(msg)

    @property
    def of_meter(self) -> dict[str, Any]:
        """The options that a meter takes, by name."""
        return {option.name: getattr(self, option.name) for option in fields(MeterOptions)}

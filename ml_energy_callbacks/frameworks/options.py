"""The options of a callback: those of a meter, and two of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.options import MeterOptions


@dataclass(kw_only=True, eq=False, repr=False)
class CallbackOptions(MeterOptions):
    """What a callback can be told.

    Args:
        batch_size_fn: Given a batch, returns its number of samples; None to infer it from the arrays' shapes.
        log_every_n_steps: Steps between two logs of a training step's energy; None for the framework's own setting, 0 for
            none.
        verbose: Whether to log what the user should know, and a line at the end of each run.
    """

    batch_size_fn: Callable[[Any], int] | None = None
    log_every_n_steps: int | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ConfigurationError: An option cannot work; the message says what to do.
        """
        super().__post_init__()
        if self.log_every_n_steps is not None and self.log_every_n_steps < 0:
            msg = f"log_every_n_steps is {self.log_every_n_steps}; give a number of steps, 0 for none, or leave it out."
            raise ConfigurationError(msg)
        given: object = self.batch_size_fn
        if given is not None and not callable(given):
            msg = f"batch_size_fn is {given!r}; give a function of a batch that returns its number of samples."
            raise ConfigurationError(msg)

"""The progress of a fit towards each of the ends that are set: epochs, steps, time."""

from typing import TYPE_CHECKING

from ml_energy_callbacks.lightning.base import timers
from ml_energy_callbacks.lightning.internals import ended_with_last_batch

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


def shares_done(trainer: "Trainer", epochs: int) -> dict[str, float]:
    """Return the share of the training that is done, by each end that is set (``epochs``, ``steps``, ``time``).

    Args:
        trainer: The trainer.
        epochs: Number of epochs that are done.
    """
    shares: dict[str, float] = {}
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        shares["epochs"] = epochs / trainer.max_epochs
    if trainer.max_steps > 0:
        shares["steps"] = trainer.global_step / trainer.max_steps
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(timer, timers()) and (left := timer.time_remaining()) is not None:  # max_time adds one
            passed = timer.time_elapsed()
            shares["time"] = passed / (passed + max(left, 0.0)) if passed else 0.0
    return shares


def is_finished(trainer: "Trainer") -> bool:
    """Return whether the training has reached one of its ends, and was not stopped before."""
    shares = shares_done(trainer, trainer.current_epoch)
    if not ended_with_last_batch(trainer):
        shares.pop("epochs", None)
    return any(share >= 1 for share in shares.values())

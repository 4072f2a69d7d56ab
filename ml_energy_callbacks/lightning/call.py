"""One call of a trainer (``fit``, ``validate``, ``test`` or ``predict``): what the callback knows of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ml_energy_callbacks.frameworks.parts import Parts
from ml_energy_callbacks.lightning.batch_sizes import LoaderSizes
from ml_energy_callbacks.meter.points import Point
from ml_energy_callbacks.metrics import Phase

if TYPE_CHECKING:
    from weakref import ref

    from pytorch_lightning import Trainer

    from ml_energy_callbacks.lightning.loggers import Loggers


@dataclass(slots=True)
class Call:
    """A call of a trainer that is measured; it may run inside a hook of another one.

    Attributes:
        trainer: The trainer; None before the first call.
        loggers: Its loggers.
        parts: Marks the parts of its batches of training.
        inside: Whether it runs inside another one, which is measured and goes on after it.
        depth: Number of stages that run around it.
        phase: Phase of the stage around it; None if nothing was measured before it.
        restored: The callback's state in the checkpoint that the trainer loaded; None without one.
        starts: Where the epoch of each stage began.
        log_every: Number of training steps between two step logs; 0 for none.
        last_logged: Step of the last step log.
        done_before: Share of the training that was done before this epoch, by each end that is set.
        batches_before: Number of training batches before this epoch.
        train_sizes: Batch sizes of the training's data loader.
        eval_sizes: Batch sizes of the data loader of the evaluation or the prediction.
        before: The trainer's metrics as the running epoch of training, or the evaluation, began, by its stage.
        evaluated: Names of metrics of evaluations.
    """

    trainer: "ref[Trainer] | None"
    loggers: "Loggers"
    parts: Parts
    inside: bool = False
    depth: int = 0
    phase: Phase | None = None
    restored: dict[str, Any] | None = None
    starts: dict[str, Point] = field(default_factory=dict)
    log_every: int = 0
    last_logged: int = -1
    done_before: dict[str, float] = field(default_factory=dict)
    batches_before: int = 0
    train_sizes: LoaderSizes = field(default_factory=lambda: LoaderSizes(None))
    eval_sizes: LoaderSizes = field(default_factory=lambda: LoaderSizes(None))
    before: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    evaluated: set[str] = field(default_factory=set)

    @property
    def running(self) -> bool:
        """Whether the trainer still runs; one that could not call the last hook is interrupted, or gone."""
        trainer = None if self.trainer is None else self.trainer()
        return trainer is not None and not trainer.state.stopped

    def is_of(self, trainer: "Trainer") -> bool:
        """Return whether it is a call of this trainer."""
        return self.trainer is not None and self.trainer() is trainer

"""The loop that calls the hooks, seen by its stack frame.

Keras calls no hook when a loop ends by an exception, and tells a callback neither its neighbours nor the data. All of that can
be read off the stack: the hook was called by a ``CallbackList``, and that by ``fit``, ``evaluate`` or ``predict``.
"""

from types import FrameType

import keras

from ml_energy_callbacks.frameworks.stack_loop import StackLoop
from ml_energy_callbacks.keras import internals
from ml_energy_callbacks.record.schema import Status


class KerasLoop(StackLoop):
    """One call of ``fit``, ``evaluate`` or ``predict``.

    Attributes:
        owner: The ``CallbackList`` that called the hook, or None.
        callbacks: The callbacks in its list, in order; empty where the hook was not called by a list.
        data: What it was given as ``x``, or None.
        steps: Number of its batches (in training, of an epoch), or None where Keras does not know it.
        has_partial_batch: Whether its last batch is smaller than the others, or None where Keras does not know it.
        is_keras: Whether it is one of Keras's own; of a user's own loop it cannot be seen whether it is still running.
    """

    def __init__(self, hook: FrameType, model: keras.Model) -> None:
        """Find the loop that called this frame's hook for a model."""
        self.owner, frame = internals.caller_of(hook)
        super().__init__(frame)
        facts = internals.loop_facts(frame)
        self.callbacks: list[keras.callbacks.Callback] = [] if self.owner is None else self.owner.callbacks
        self.is_keras = facts.model is model
        self.data = facts.data if self.is_keras else None
        self.steps = facts.steps
        self.has_partial_batch = facts.has_partial_batch
        self._validation_freq = facts.validation_freq if self.is_keras else None

    def validates_at(self, epochs: int) -> int:
        """Return how many of the first so many epochs have a validation."""
        often = self._validation_freq
        if often is None:
            return 0
        if isinstance(often, int):
            return epochs // often
        return sum(epoch <= epochs for epoch in often)

    def running(self) -> bool:
        """Return whether its frame is on its thread's stack still; of a user's own loop, True."""
        return super().running() or not self.is_keras

    def ending(self) -> tuple[Status, str | None]:
        """Return how the loop ended that is gone without a word."""
        self.data = None  # it is nobody's any more
        return super().ending()

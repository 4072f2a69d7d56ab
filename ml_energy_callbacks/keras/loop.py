"""The loop that calls the hooks, found by its stack frame.

Keras calls no hook when a loop ends by an exception, and gives a callback no access to the other callbacks or the data. All of
this can be read from the stack: a ``CallbackList`` called the hook, and ``fit``, ``evaluate`` or ``predict`` called the list.
Only Keras's own frames are read and watched.
"""

from types import FrameType
from weakref import ref

import keras

from ml_energy_callbacks.frameworks.stack_loop import StackLoop
from ml_energy_callbacks.keras import internals


class KerasLoop(StackLoop):
    """One call of ``fit``, ``evaluate`` or ``predict``.

    Attributes:
        data: Its argument ``x``, or None.
        steps: Number of its batches (in training, of an epoch), or None if Keras does not know it.
        has_partial_batch: Whether its last batch is smaller than the others, or None if Keras does not know it.
        is_keras: Whether it is one of Keras's own; it is not possible to detect whether a user's own loop is still running.
    """

    def __init__(self, hook: FrameType, model: keras.Model) -> None:
        """Find the loop that called this frame's hook for a model."""
        owner, frame = internals.caller_of(hook)
        facts = internals.loop_facts(frame)
        self.is_keras = facts.model is model
        super().__init__(frame if self.is_keras else None)
        self._owner = None if owner is None else ref(owner)
        self.data = facts.data if self.is_keras else None
        self.steps = facts.steps
        self.has_partial_batch = facts.has_partial_batch
        self._validation_freq = facts.validation_freq if self.is_keras else None

    @property
    def owner(self) -> keras.callbacks.CallbackList | None:
        """The ``CallbackList`` that called the hook, or None; it ends with the loop."""
        return None if self._owner is None else self._owner()

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        """The callbacks in its list, in order; empty where the hook was not called by a list."""
        owner = self.owner
        return [] if owner is None else owner.callbacks

    def validates_at(self, epochs: int) -> int:
        """Return how many of the first ``epochs`` epochs have a validation."""
        often = self._validation_freq
        if often is None:
            return 0
        if isinstance(often, int):
            return epochs // often
        return sum(epoch <= epochs for epoch in often)

    def running(self) -> bool:
        """Return whether its frame is still on its thread's stack; True for a user's own loop."""
        return super().running() or not self.is_keras

    def release(self) -> None:
        """Stop watching it; its data are no longer needed."""
        self.data = None
        super().release()

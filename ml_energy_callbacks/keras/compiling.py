"""The batches in which a backend compiles.

TensorFlow, JAX and ``torch.compile`` trace and compile a model's function at its first batch, and once more at a batch of
another shape: for most data that is the last one of the first epoch. These batches are predicted. JAX, which compiles for
each new shape, also reports when it has traced; later compilations of the others are not detected.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

import keras

from ml_energy_callbacks.keras.internals import JAX_TRACE_EVENT
from ml_energy_callbacks.metrics import Stage

FUNCTIONS = {
    "train": "train_function",
    "validate": "test_function",
    "test": "test_function",
    "predict": "predict_function",
}
"""The model's attribute with the function of each stage."""

# Functions that have run all the batches at which they compile; a model keeps its functions until it is compiled again.
_settled: "WeakSet[Callable[..., Any]]" = WeakSet()


class ExpectedCompilations:
    """The batches of an epoch at which the function of a stage is expected to compile.

    Args:
        model: The model; None if none runs, so that nothing compiles.
        stage: The stage.
        steps: Number of batches of an epoch, or None if it is unknown.
        width: Number of batches that Keras runs as one.
        partial: Whether the last batch is smaller than the others, or None if that is unknown.
    """

    def __init__(self, model: Any, stage: Stage, *, steps: int | None, width: int, partial: bool | None) -> None:
        self._model = model
        self._stage = stage
        self._indexes = {0}
        if steps and (partial is not False or steps % width > 0):
            self._indexes.add((steps - 1) // width * width)
        self._function: Callable[..., Any] | None = None
        self._pending: set[int] = set()

    @property
    def pending(self) -> bool:
        """Whether such a batch is still to come in this epoch."""
        return bool(self._pending)

    def begin_epoch(self) -> None:
        """Find the function that runs from now on, and the batches at which it is expected to compile."""
        self._function = _new_function(self._model, self._stage)
        self._pending = set() if self._function is None else set(self._indexes)

    def begin_batch(self, batch: int) -> bool:
        """Return whether the batch of this index is one of them, which is then no longer pending."""
        expected = batch in self._pending
        self._pending.discard(batch)
        return expected

    def end_epoch(self) -> None:
        """Expect no more of the function once all those batches have run."""
        if self._function is not None and not self._pending:
            _settled.add(self._function)


def _new_function(model: Any, stage: Stage) -> Callable[..., Any] | None:
    """Return the function of a stage if it still has to be compiled, else None."""
    if model is None or model.run_eagerly or (keras.backend.backend() != "tensorflow" and not model.jit_compile):
        return None
    function: Callable[..., Any] | None = getattr(model, FUNCTIONS[stage], None)
    return None if function is None or function in _settled else function


@contextlib.contextmanager
def compilations(heard: Callable[[], None]) -> Iterator[None]:
    """Call ``heard`` when the backend begins to compile in this thread, while the body runs; only JAX reports this."""
    if keras.backend.backend() != "jax":
        yield
        return
    from jax import monitoring  # noqa: PLC0415 - another backend needs no JAX

    if not hasattr(monitoring, "unregister_event_duration_listener"):  # an older JAX cannot remove a listener
        yield
        return
    thread = threading.get_ident()

    def listen(event: str, duration_secs: float, **_: Any) -> None:  # noqa: ARG001 - JAX passes it by this name
        if event == JAX_TRACE_EVENT and threading.get_ident() == thread:
            heard()

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # other code may have removed all listeners
            monitoring.unregister_event_duration_listener(listen)

"""Which batches a backend spends compiling.

TensorFlow, JAX and ``torch.compile`` trace and compile a model's function at its first batch, and once more at a batch of
another shape: for most data that is the last one of the first epoch. These are told beforehand. JAX, which compiles for
each new shape, says so as well when it has traced; what the others compile later is not told.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

import keras

from ml_energy_callbacks.keras.internals import JAX_TRACE_EVENT
from ml_energy_callbacks.metrics import Stage

_FUNCTIONS = {
    "train": "train_function",
    "validate": "test_function",
    "test": "test_function",
    "predict": "predict_function",
}

# Functions that have run all the batches at which they compile; a model keeps its functions until it is compiled anew.
_settled: "WeakSet[Callable[..., Any]]" = WeakSet()


def new_function(model: Any, stage: Stage) -> Callable[..., Any] | None:
    """Return the function of a stage if it has to be compiled still, else None."""
    if model.run_eagerly or (keras.backend.backend() != "tensorflow" and not model.jit_compile):
        return None
    function: Callable[..., Any] | None = getattr(model, _FUNCTIONS[stage], None)
    return None if function is None or function in _settled else function


def compiling_batches(steps: int | None, width: int, *, partial: bool | None) -> set[int]:
    """Return the indexes of the batches at which a new function compiles.

    Args:
        steps: Batches of an epoch, or None where their number is not known.
        width: Batches that the framework runs as one.
        partial: Whether the last batch is smaller than the others, or None where that is not known.
    """
    last = partial is not False or (steps or 0) % width > 0
    return {0, (steps - 1) // width * width} if steps and last else {0}


def note_compiled(function: Callable[..., Any]) -> None:
    """Note that a function has run all those batches."""
    _settled.add(function)


@contextlib.contextmanager
def compilations(heard: Callable[[], None]) -> Iterator[None]:
    """Call ``heard`` when the backend begins to compile in this thread, while the body runs; only JAX tells."""
    if keras.backend.backend() != "jax":
        yield
        return
    from jax import monitoring  # noqa: PLC0415 - another backend needs no JAX

    if not hasattr(monitoring, "unregister_event_duration_listener"):  # an older JAX would call us for ever
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
        with contextlib.suppress(Exception):  # somebody else cleared all listeners
            monitoring.unregister_event_duration_listener(listen)

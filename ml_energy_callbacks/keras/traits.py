"""Differences between the backends that affect a callback."""

import sys
from collections.abc import Callable
from typing import Any

import keras


def name() -> str:
    """Return the backend's name and version."""
    backend = keras.backend.backend()
    return f"{backend} {getattr(sys.modules.get(backend), '__version__', '')}".strip()


def unwrapped(model: Any) -> Any:
    """Return the model itself, without torch's DistributedDataParallel around it.

    Not every model is a ``keras.Model``: a layer that also derives from Keras's Trainer can be trained, too.
    """
    return model if isinstance(model, keras.Layer) else getattr(model, "module", model)


def why_no_layers(model: Any) -> str | None:
    """Return why the layers of a training cannot be timed: only torch without a compiler runs them one by one."""
    if keras.backend.backend() != "torch":
        return f"Keras on {name()} runs a step as a whole, without layers."
    return "The model is compiled by torch.compile (jit_compile), which leaves no layers." if model.jit_compile else None


def waits_between_batches() -> bool:
    """Return whether data are fetched between two batches, where the hooks can time it, rather than inside the step."""
    return str(keras.backend.backend()) == "torch"


def takes_ahead() -> bool:
    """Return whether the loop fetches each batch one batch ahead, as JAX does on an accelerator."""
    if keras.backend.backend() != "jax":
        return False
    import jax  # noqa: PLC0415 - another backend needs no JAX

    return str(jax.default_backend()) != "cpu"


def event_recorder() -> Callable[[], Any] | None:
    """Return a function that records an event in the queue of the model's GPU; None if the backend does not support it."""
    if keras.backend.backend() != "torch":
        return None
    import torch  # noqa: PLC0415 - as above

    if not torch.cuda.is_available():
        return None
    from ml_energy_callbacks.frameworks.torch import cuda_event_recorder  # noqa: PLC0415 - as above

    return cuda_event_recorder()

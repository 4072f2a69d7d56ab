"""In what the backends differ, as far as a callback sees it."""

import sys
from collections.abc import Callable
from typing import Any

import keras


def name() -> str:
    """Return the backend's name and version."""
    backend = keras.backend.backend()
    return f"{backend} {getattr(sys.modules.get(backend), '__version__', '')}".strip()


def unwrapped(model: Any) -> Any:
    """Return the model itself, where torch's DistributedDataParallel is around it."""
    return model if isinstance(model, keras.Model) else getattr(model, "module", model)


def waits_between_batches() -> bool:
    """Return whether data are fetched between two batches, where hooks see it; else it is done inside the step."""
    return str(keras.backend.backend()) == "torch"


def takes_ahead() -> bool:
    """Return whether the loop takes a batch before the one that uses it: JAX does so on an accelerator."""
    if keras.backend.backend() != "jax":
        return False
    import jax  # noqa: PLC0415 - another backend needs no JAX

    return str(jax.default_backend()) != "cpu"


def event_recorder() -> Callable[[], Any] | None:
    """Return what puts an event into the queue of the GPU that the model runs on; None where no backend offers that."""
    if keras.backend.backend() != "torch":
        return None
    import torch  # noqa: PLC0415 - as above

    if not torch.cuda.is_available():
        return None
    from ml_energy_callbacks.frameworks.torch import cuda_event_recorder  # noqa: PLC0415 - as above

    return cuda_event_recorder()

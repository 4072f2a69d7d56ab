"""Leaves a module, and the generators of random numbers, as they were."""

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def kept_state(module: Any) -> Iterator[None]:  # noqa: ANN401 - a torch module
    """Restore parameters, buffers, modes and the random numbers of torch, NumPy and Python, bit for bit.

    Copies are on the processor, so that they take no memory of a GPU. Parameters that did not change are not written, as a
    graph of the user's may depend on them.
    """
    torch: Any = sys.modules["torch"]
    numpy: Any = sys.modules.get("numpy")
    parts = [(part, part.training, dict(part._parameters), dict(part._buffers)) for part in module.modules()]  # noqa: SLF001
    tensors = [*module.parameters(), *module.buffers()]
    copies = [(tensor, _version(tensor), tensor.detach().to("cpu", copy=True)) for tensor in tensors]
    gpus = sorted({tensor.device.index for tensor in tensors if tensor.device.type == "cuda"})
    drawn = random.getstate()
    drawn_by_numpy = None if numpy is None else numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(drawn)
        if numpy is not None:
            numpy.random.set_state(drawn_by_numpy)
        for part, training, parameters, buffers in parts:
            part.training = training
            part._parameters.update(parameters)  # noqa: SLF001 - a module may have replaced one
            part._buffers.update(buffers)  # noqa: SLF001 - the same
        with torch.no_grad():
            for tensor, version, copy in copies:
                if version is None or _version(tensor) != version:
                    tensor.copy_(copy)


def _version(tensor: Any) -> int | None:  # noqa: ANN401 - a tensor
    """Return how often a parameter was written into; None for a buffer, as torch does not count what batch norm does."""
    counted = isinstance(tensor, sys.modules["torch"].nn.Parameter) and not tensor.is_inference()
    return int(tensor._version) if counted else None  # noqa: SLF001 - there is no other way

"""Differences between torch modules, Keras models and plain callables; only frameworks that are already imported are used."""

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from ml_energy_callbacks.exceptions import ConfigurationError

_TOO_LARGE = {"OutOfMemoryError", "ResourceExhaustedError"}
"""Exceptions of torch and TensorFlow; JAX, and torch on a CPU, only report it in the message."""
_TOO_LARGE_WORDS = ("RESOURCE_EXHAUSTED", "out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether this exception reports a lack of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ in _TOO_LARGE:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _TOO_LARGE_WORDS)


def wait_for_outputs(outputs: object) -> None:
    """Wait until the accelerator has completed the work that torch or JAX submitted."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    if jax is not None:
        jax.block_until_ready(outputs)


def is_keras(model: object) -> bool:
    """Return whether this is a Keras model; with the torch backend it is also a torch module."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def is_torch(model: object) -> bool:
    """Return whether this is a torch module and not a Keras model."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module) and not is_keras(model)


def predictor(name: str, model: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - of any framework
    """Return the function from inputs to outputs.

    It raises a ConfigurationError if the model returns before it has predicted.

    Raises:
        ConfigurationError: It is not a model.
    """
    if is_keras(model):
        return model.predict_on_batch  # type: ignore[no-any-return]
    if is_torch(model):
        return partial(_predict_now, name, partial(_without_gradients, model))
    if not callable(model):
        msg = f"The model {name!r} is a {type(model).__name__}; pass a torch module, a Keras model, or a callable."
        raise ConfigurationError(msg)
    return partial(_predict_now, name, model)


def _predict_now(name: str, model: Callable[[Any], Any], inputs: Any) -> Any:  # noqa: ANN401 - of any framework
    outputs = model(inputs)
    if isinstance(outputs, CoroutineType):
        outputs.close()  # else Python warns that it never ran
        msg = f"{name!r} returns a coroutine that has not run; pass a function that runs it with asyncio.run."
        raise ConfigurationError(msg)
    if isinstance(outputs, GeneratorType | AsyncGeneratorType):
        msg = f"{name!r} returns a generator that has not run; pass a function that returns all results."
        raise ConfigurationError(msg)
    return outputs


def _without_gradients(model: Any, inputs: Any) -> Any:  # noqa: ANN401 - of any framework
    with sys.modules["torch"].inference_mode():
        return model(inputs)


@contextlib.contextmanager
def in_eval_mode(models: Iterable[Any]) -> Iterator[None]:
    """Switch torch modules to eval mode, and restore the mode of each submodule afterwards."""
    modules = [model for model in models if is_torch(model)]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


def size_on_disk(model: Any) -> int | None:  # noqa: ANN401 - of any framework
    """Return the size of torch's saved state_dict, or of Keras's .keras file, in bytes; None if there is none."""
    try:
        if is_keras(model):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.keras"
                model.save(path)
                return path.stat().st_size
        if is_torch(model):
            file = io.BytesIO()
            sys.modules["torch"].save(model.state_dict(), file)
            return file.tell()
    except Exception:  # noqa: BLE001 - a custom layer can fail in any way; the size is then unknown
        return None
    return None


def check_outputs(name: str, model: object, outputs: Any, samples: int) -> None:  # noqa: ANN401 - of any framework
    """Check that the outputs are one array or sequence with one output per sample.

    Raises:
        ConfigurationError: They are not, for example if the model has several outputs.
    """
    shape = getattr(outputs, "shape", None)
    sequence = isinstance(outputs, Sequence) and not isinstance(outputs, tuple | str | bytes) and not is_keras(model)
    if shape is None and not sequence:
        msg = f"The model {name!r} returns a {type(outputs).__name__}; wrap it to return the predictions."
        raise ConfigurationError(msg)
    count = len(outputs) if shape is None else shape[0] if len(shape) else None
    if count != samples:
        found = "a single number" if count is None else f"{count} outputs"
        msg = f"The model {name!r} returns {found} for a batch of {samples} samples; wrap it to return one output per sample."
        raise ConfigurationError(msg)


def join_batches(parts: Sequence[Any]) -> Any:  # noqa: ANN401 - of any framework
    """Return the outputs or targets of all batches as one: a torch tensor, a NumPy array, or a list.

    Args:
        parts: For each batch, an array of shape (samples, ...) or a sequence.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(parts[0], torch.Tensor):
        return torch.cat([part.detach().cpu() for part in parts])
    if hasattr(parts[0], "__array__"):
        numpy = sys.modules["numpy"]
        return numpy.concatenate([numpy.asarray(part) for part in parts])
    return [value for part in parts for value in part]


def shape_of_sample(outputs: Any) -> tuple[int, ...]:  # noqa: ANN401 - of any framework
    """Return the shape of one sample's output; () for a plain sequence."""
    return tuple(getattr(outputs, "shape", ()))[1:]

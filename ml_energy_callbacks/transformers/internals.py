"""Everything that is read from private parts of the Trainer, as they are in transformers 5.24.0.

The Trainer does not pass itself to its callbacks, and has no hook for the start of an evaluation, the start of a wait for data,
and the batch that it runs. The Trainer is read from the stack: one of its methods called the hook. For the others, methods that
the Trainer calls on itself are wrapped in the class that defines them; what they do and return stays the same, also for a
Trainer without an EnergyCallback. Trainers keep their class and their attributes: nothing keeps them alive, and their copies
work on themselves.

Files are those of the package transformers; any release may change what is read there.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any, NamedTuple
from weakref import WeakSet

from transformers import Trainer
from transformers.trainer_callback import CallbackHandler

from ml_energy_callbacks.frameworks.parts import Parts


class Caller(NamedTuple):
    """What called a hook.

    Attributes:
        trainer: The Trainer.
        inner: Its method that called the hook.
        outer: Its method that the user called, such as ``train``.
    """

    trainer: Trainer
    inner: FrameType
    outer: FrameType


def caller_of(hook: FrameType) -> Caller | None:
    """Return the Trainer that called the hook of this frame; None if it was a loop of the user's own.

    Reads the local ``self`` of the frames that called the hook (``Trainer.train``, ``Trainer._inner_training_loop`` and others,
    trainer.py). Before Python 3.13, reading a frame's variables keeps them alive for as long as it runs: only frames of
    transformers are read, never those of the user.
    """
    frame: FrameType | None = hook.f_back
    found: Caller | None = None
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("transformers.") and "self" in frame.f_code.co_varnames[:1]:
            owner = frame.f_locals["self"]
            if found is None and isinstance(owner, Trainer):
                found = Caller(owner, frame, frame)
            elif found is not None and owner is found.trainer:
                found = found._replace(outer=frame)
        frame = frame.f_back
    return found


def callbacks_beside(hook: FrameType) -> Sequence[object]:
    """Return the callbacks of the list that called the hook of this frame, in order; empty where none did.

    Reads the local ``self`` of ``CallbackHandler.call_event``, and its ``callbacks`` (trainer_callback.py).
    """
    frame = hook.f_back
    while frame is not None:
        if frame.f_code is _CALL_EVENT:
            found: Sequence[object] = frame.f_locals["self"].callbacks
            return found
        frame = frame.f_back
    return []


_CALL_EVENT = CallbackHandler.call_event.__code__


def resumed_checkpoint(caller: Caller) -> Path | None:
    """Return the folder of the checkpoint from which the training that called ``on_train_begin`` resumes, or None.

    Reads the local ``resume_from_checkpoint`` of ``Trainer._inner_training_loop``, which calls that hook (trainer.py).
    """
    checkpoint = caller.inner.f_locals.get("resume_from_checkpoint")
    return Path(checkpoint) if isinstance(checkpoint, (str, os.PathLike)) else None


Wrapper = Callable[..., Any]
"""Is called in place of a method, with the Trainer, the method and its arguments."""

_wrapped: "WeakSet[Any]" = WeakSet()
"""The functions that :func:`observe` made."""


def observe(kind: type[Trainer], wrappers: Mapping[str, Wrapper]) -> list[str]:
    """Have wrappers called in place of methods that a Trainer of this class calls on itself.

    These are ``train``, ``evaluate``, ``predict``, ``get_batch_samples`` and ``prediction_step``, and ``training_step`` where
    FLOPs are counted (trainer.py). An override that calls the method that it overrides calls the wrapper once more.

    Args:
        kind: The class, possibly the user's.
        wrappers: The wrapper of each method, by its name.

    Returns:
        The names of the methods that cannot be wrapped.
    """
    return [name for name, wrapper in wrappers.items() if not _wrap(kind, name, wrapper)]


def _wrap(kind: type[Trainer], name: str, wrapper: Wrapper) -> bool:
    owner = next(owner for owner in kind.__mro__ if name in vars(owner))
    function = vars(owner)[name]
    if not isinstance(function, FunctionType):
        return False
    if function in _wrapped:
        return True

    @functools.wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(self, functools.partial(function, self), *args, **kwargs)

    try:
        setattr(owner, name, method)
    except (AttributeError, TypeError):  # its metaclass refuses
        return False
    _wrapped.add(method)
    return True


def mark_parts(parts: Parts, trainer: Trainer) -> None:
    """Mark the parts of the batches of a training by what the Trainer calls of itself and of its accelerator (trainer.py).

    ``_prepare_inputs`` moves a batch to the device, where the data loader has not done so, and may do more in a class of the
    user's. The optimizer's step, which ``clip_grad_norm_`` begins, has hooks.
    """
    if type(trainer)._prepare_inputs is Trainer._prepare_inputs:  # noqa: SLF001 - see above
        parts.around(trainer, "_prepare_inputs", "transfer")
    parts.around(trainer, "compute_loss", "forward")
    parts.around(trainer.accelerator, "backward", "backward")
    parts.begin(trainer.accelerator, "clip_grad_norm_", "optimizer")


def ends_data(trainer: Trainer, batches: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether the data end with the batches that ``Trainer.get_batch_samples`` returned for a step.

    Reads its second argument, ``num_batches`` (trainer.py).

    Args:
        trainer: The Trainer.
        batches: What it returned.
        args: What it was called with, by position.
        kwargs: What it was called with, by name.
    """
    wanted = args[1] if len(args) > 1 else kwargs["num_batches"]
    return at_end_of_data(trainer) or len(batches) < wanted


def at_end_of_data(trainer: Trainer) -> bool:
    """Return whether the batch that was fetched last is the last one of its data loader.

    Reads ``gradient_state`` of the Trainer's accelerator (accelerate 1.15.0, state.py), as the Trainer does.
    """
    return bool(trainer.accelerator.gradient_state.end_of_dataloader)

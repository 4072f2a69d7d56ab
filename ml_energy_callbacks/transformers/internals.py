"""Everything that is read from, or changed in, private parts of the Trainer, as they are in transformers 5.24.0.

The Trainer does not pass itself to its callbacks, and has no hook for the start of an evaluation, the start of a wait for data,
and the batch that it runs. The Trainer is read from the stack: one of its methods called the hook. For the others, methods that
the Trainer calls on itself are wrapped, on that one object: what they do and return stays the same.

Files are those of the package transformers; any release may change what is read there.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from transformers import Trainer

from ml_energy_callbacks.exceptions import ConfigurationError


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


def caller_of(hook: FrameType) -> Caller:
    """Return the Trainer that called the hook of this frame.

    Reads the local ``self`` of the frames that called the hook (``Trainer.train``, ``Trainer._inner_training_loop`` and others,
    trainer.py).

    Raises:
        ConfigurationError: No Trainer called it.
    """
    frame: FrameType | None = hook.f_back
    found: Caller | None = None
    while frame is not None:
        # Reading a frame's variables keeps them alive for as long as it runs: only the frames of methods are read.
        owner = frame.f_locals.get("self") if frame.f_code.co_varnames[:1] == ("self",) else None
        if found is None and isinstance(owner, Trainer):
            found = Caller(owner, frame, frame)
        elif found is not None and owner is found.trainer:
            found = found._replace(outer=frame)
        frame = frame.f_back
    if found is None:
        msg = "This EnergyCallback requires the Trainer of transformers: pass it in Trainer(callbacks=[...])."
        raise ConfigurationError(msg)
    return found


def resumed_checkpoint(caller: Caller) -> Path | None:
    """Return the folder of the checkpoint from which the training that called ``on_train_begin`` resumes, or None.

    Reads the local ``resume_from_checkpoint`` of ``Trainer._inner_training_loop``, which calls that hook (trainer.py).
    """
    checkpoint = caller.inner.f_locals.get("resume_from_checkpoint")
    return Path(checkpoint) if isinstance(checkpoint, (str, os.PathLike)) else None


def wrap_method(trainer: Trainer, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a method of one Trainer by a function, which is called with the Trainer, the method and its arguments.

    It works for the methods that the Trainer calls on itself, which are ``train``, ``evaluate``, ``predict``,
    ``get_batch_samples`` and ``prediction_step`` (trainer.py).
    """
    method = getattr(trainer, name)
    setattr(trainer, name, functools.wraps(method)(functools.partial(wrapper, trainer, method)))


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

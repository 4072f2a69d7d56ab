"""Everything that is read from private parts of the Trainer, as they are in transformers 5.24.0.

The Trainer does not pass itself to its callbacks, and has no hook for the start of an evaluation, the start of a wait for data,
and the batch that it runs. The Trainer is read from the stack: one of its methods called the hook. For the others, the Trainer
is made an object of a subclass, which is how it is meant to be extended; the subclass overrides methods that the Trainer calls
on itself, and what they do and return stays the same. Nothing is stored in the Trainer: nothing keeps it alive, and its copies
work on themselves.

Files are those of the package transformers; any release may change what is read there.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from weakref import WeakSet

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
    trainer.py). Before Python 3.13, reading a frame's variables keeps them alive for as long as it runs: only frames of
    transformers are read, never those of the user.

    Raises:
        ConfigurationError: No Trainer called it.
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


Wrapper = Callable[..., Any]
"""Is called in place of a method, with the Trainer, the method and its arguments."""


_observed: "WeakSet[type]" = WeakSet()
"""The subclasses that :func:`observe` made."""


def _remake(kind: type, *args: Any) -> Any:
    return kind.__new__(kind, *args)


def observe(trainer: Trainer, wrappers: Mapping[str, Wrapper]) -> None:
    """Have wrappers called in place of methods that a Trainer calls on itself; once for a Trainer.

    These are ``train``, ``evaluate``, ``predict``, ``get_batch_samples`` and ``prediction_step`` (trainer.py).

    Args:
        trainer: The Trainer.
        wrappers: The wrapper of each method, by its name.
    """
    kind = type(trainer)
    if _observed.isdisjoint(kind.__mro__):
        known = (other for other in kind.__subclasses__() if other in _observed)
        trainer.__class__ = next(known, None) or _make_observed(kind, wrappers)


def _make_observed(kind: type[Trainer], wrappers: Mapping[str, Wrapper]) -> type[Trainer]:
    """Return a subclass of a class of Trainers, of the same name."""

    def override(name: str, wrapper: Wrapper) -> Callable[..., Any]:
        @functools.wraps(getattr(kind, name))
        def method(self: Trainer, *args: Any, **kwargs: Any) -> Any:
            return wrapper(self, getattr(super(observed, self), name), *args, **kwargs)

        return method

    def __reduce_ex__(self: Trainer, protocol: Any) -> Any:  # noqa: N807 - it becomes a method
        found = super(observed, self).__reduce_ex__(protocol)
        if isinstance(found, str) or found[1][:1] != (observed,):  # the user's class has a way of its own
            return found
        return (_remake, (kind, *found[1][1:]), *found[2:])  # of the class that another process can import

    namespace = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    namespace |= {name: override(name, wrapper) for name, wrapper in wrappers.items()}
    observed: type[Trainer] = type(kind.__name__, (kind,), {**namespace, "__reduce_ex__": __reduce_ex__})
    _observed.add(observed)
    return observed


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

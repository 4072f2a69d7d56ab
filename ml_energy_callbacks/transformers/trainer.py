"""The Trainer that calls the hooks, and what its hooks do not show.

A Trainer does not tell its callbacks who it is, when an evaluation begins, when it begins to wait for data, and which batch it
runs. The first can be read off the stack: one of its methods called the hook. For the others, the methods that it calls itself
by are put before its own, on this one object: what they do and return stays theirs.
"""

import functools
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

from transformers import Trainer

from ml_energy_callbacks.exceptions import ConfigurationError


class Caller(NamedTuple):
    """Who called a hook.

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

    Raises:
        ConfigurationError: None did.
    """
    frame: FrameType | None = hook.f_back
    found: Caller | None = None
    while frame is not None:
        # A look at a frame's variables keeps them alive for as long as it runs: only methods' are looked at.
        owner = frame.f_locals.get("self") if frame.f_code.co_varnames[:1] == ("self",) else None
        if found is None and isinstance(owner, Trainer):
            found = Caller(owner, frame, frame)
        elif found is not None and owner is found.trainer:
            found = found._replace(outer=frame)
        frame = frame.f_back
    if found is None:
        msg = "EnergyCallback is for the Trainer of transformers: give it in Trainer(callbacks=[...])."
        raise ConfigurationError(msg)
    return found


def precede(trainer: Trainer, name: str, around: Callable[..., Any]) -> None:
    """Let a method of a Trainer be called by a function of the Trainer, the method, and what that is called with."""
    method = getattr(trainer, name)
    setattr(trainer, name, functools.wraps(method)(functools.partial(around, trainer, method)))

"""Keeps errors of a callback's hooks from the training that calls them."""

from collections.abc import Callable
from functools import wraps
from types import FrameType, FunctionType
from typing import Any, TypeVar, cast

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.unforeseen import pass_users_error

_Class = TypeVar("_Class", bound=type)
_Method = TypeVar("_Method", bound=Callable[..., Any])

_HOOKS = ("setup", "teardown", "state_dict", "load_state_dict", "set_model")
"""Hooks whose names do not begin with ``on_``."""

_OWN_GUARD = "_guards_itself"


def guard_hooks(kind: _Class) -> _Class:
    """Guard all hooks that a class of callbacks defines, as by :func:`guarded`; what a subclass defines is not ours."""
    for name, method in list(vars(kind).items()):
        hook = isinstance(method, FunctionType) and (name.startswith("on_") or name in _HOOKS)
        if hook and not hasattr(method, _OWN_GUARD):
            setattr(kind, name, guarded(method))
    return kind


def guards_itself(method: _Method) -> _Method:
    """Mark a hook of each batch, which calls :func:`handle_error` itself: the guard would take longer than the hook."""
    setattr(method, _OWN_GUARD, True)
    return method


def handle_error(callback: Any, error: Exception) -> None:  # noqa: ANN401 - as of any hook
    """Turn an unforeseen error into a warning; raise a ``ConfigurationError``, and what a handler of a signal raised."""
    if isinstance(error, ConfigurationError):
        raise error
    pass_users_error(error)
    callback._meter.warn_of_error(error)  # noqa: SLF001 - see guarded()


def guarded(method: _Method) -> _Method:
    """Return a method of a callback that raises nothing into the training: an unforeseen error becomes one warning.

    A ``ConfigurationError`` passes, as it is raised only where a measurement starts; so do Ctrl-C, the end of the interpreter,
    and what a handler of a signal raises. The callback has its meter in ``_meter``. After an error, the result is None.
    """

    @wraps(method)
    def guard(callback: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as of any hook
        try:
            return method(callback, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - see above
            handle_error(callback, error)
            return None

    return cast("_Method", guard)


def caller_of(hook: FrameType) -> FrameType | None:
    """Return the frame that called a hook, without the guard around it."""
    caller = hook.f_back
    return caller.f_back if caller is not None and caller.f_code is _GUARD else caller


_GUARD = guarded(lambda _: None).__code__

"""Calls the ``module:function`` of the command line."""

import importlib
import sys
from pathlib import Path
from typing import Any

from ml_energy_callbacks.exceptions import ConfigurationError


def load_target(target: str, *parts: str) -> tuple[Any, ...]:
    """Import the module (from the current directory, too), call the function, and return its result as a tuple.

    Args:
        target: Such as ``mymodel:build``.
        parts: Names of the objects that the function must return as a tuple, for the error message; of a single one, it returns
            that itself.

    Raises:
        ConfigurationError: The function does not exist, fails, or returns something else.
    """
    name, _, function = target.partition(":")
    if not name or not function:
        msg = f"{target!r} does not name a function; write it as module:function, such as mymodel:build."
        raise ConfigurationError(msg)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except SystemExit as error:
        msg = f"The module {name!r} exits when it is imported; move its commands below: if __name__ == '__main__'."
        raise ConfigurationError(msg) from error
    except Exception as error:
        msg = (
            f"The module {name!r} cannot be imported ({type(error).__name__}: {error}); fix it, or use a module in the "
            "current directory."
        )
        raise ConfigurationError(msg) from error
    build = getattr(module, function, None)
    if not callable(build):
        msg = f"The module {name!r} has no function {function!r}; use one of its functions."
        raise ConfigurationError(msg)
    try:
        found = build()
    except (Exception, SystemExit) as error:
        msg = f"{target} failed ({type(error).__name__}: {error}); it is called without arguments."
        raise ConfigurationError(msg) from error
    if len(parts) == 1:
        return (found,)
    if not isinstance(found, tuple) or len(found) != len(parts):
        returned = f"a tuple of {len(found)}" if isinstance(found, tuple) else f"a {type(found).__name__}"
        msg = f"{target} returned {returned}; it must return ({', '.join(parts)})."
        raise ConfigurationError(msg)
    return found

"""``module:function`` of the command line -> what the function returns."""

import importlib
import sys
from pathlib import Path
from typing import Any

from ml_energy_callbacks.exceptions import ConfigurationError


def load(target: str, *parts: str) -> tuple[Any, ...]:
    """Import the module, from the present directory too, call the function and return what it returns.

    Args:
        target: Such as ``mymodel:build``.
        parts: What the function has to return as a tuple, in words for the error.

    Raises:
        ConfigurationError: There is no such function, it fails, or it returns something else.
    """
    name, _, function = target.partition(":")
    if not name or not function:
        msg = f"{target!r} names no function; write it as module:function, such as mymodel:build."
        raise ConfigurationError(msg)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except SystemExit as error:
        msg = f"The module {name!r} exits when it is imported; put what it does below: if __name__ == '__main__'."
        raise ConfigurationError(msg) from error
    except Exception as error:
        msg = (
            f"The module {name!r} cannot be imported ({type(error).__name__}: {error}); mend it, or name one that this "
            "directory has."
        )
        raise ConfigurationError(msg) from error
    build = getattr(module, function, None)
    if not callable(build):
        msg = f"The module {name!r} has no function {function!r}; name a function of it."
        raise ConfigurationError(msg)
    try:
        found = build()
    except (Exception, SystemExit) as error:
        msg = f"{target} failed ({type(error).__name__}: {error}); it is called without arguments."
        raise ConfigurationError(msg) from error
    if not isinstance(found, tuple) or len(found) != len(parts):
        returned = f"a tuple of {len(found)}" if isinstance(found, tuple) else f"a {type(found).__name__}"
        msg = f"{target} returned {returned}; it has to return ({', '.join(parts)})."
        raise ConfigurationError(msg)
    return found

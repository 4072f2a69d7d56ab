"""Work in steps: whoever does it can let other threads run between them; pure.

NumPy and Python hold the interpreter while they work, and a training loop would wait for it.
"""

from collections.abc import Generator
from typing import TypeVar

BREATH_S = 1e-4
"""A real sleep of this length, whatever a session's clock, lets another thread have the interpreter."""

_Result = TypeVar("_Result")

Steps = Generator[None, None, _Result]
"""Work that yields after each step, and returns its result."""


def at_once(steps: Steps[_Result]) -> _Result:
    """Do all steps one after another, and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _Result = end.value
            return result

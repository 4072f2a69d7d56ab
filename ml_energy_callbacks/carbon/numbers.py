"""Numbers as users give them."""

from math import nan
from typing import Any


def plain(value: Any) -> float:  # noqa: ANN401 - as the user gives it
    """Return a number of any library as one that a record can hold, and 0 without a sign; NaN where it is none."""
    if isinstance(value, str | bytes | bool):
        return nan
    try:
        return float(value) + 0.0
    except (TypeError, ValueError, OverflowError):
        return nan

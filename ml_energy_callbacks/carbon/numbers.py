"""Conversion of numbers given by users."""

from math import nan
from typing import Any


def plain_number(value: Any) -> float:  # noqa: ANN401 - given by the user
    """Return a number of any library as a float for a record, with -0 as 0; NaN if it is not a number."""
    if isinstance(value, str | bytes | bool):
        return nan
    try:
        return float(value) + 0.0
    except (TypeError, ValueError, OverflowError):
        return nan

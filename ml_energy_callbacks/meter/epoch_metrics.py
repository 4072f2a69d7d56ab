"""What a framework or a loop logged at an epoch -> names and finite numbers, for the record; pure."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from ml_energy_callbacks.meter.unforeseen import pass_users_error
from ml_energy_callbacks.safe_text import message, shorten

_MOST, _LONGEST = 50, 100
"""Most metrics of an epoch, and most characters of a name."""

_OURS = "energy/"
_AXES = frozenset({"epoch", "step", "global_step"})
"""Names that frameworks log as the place of other metrics."""


def read_metrics(logged: Mapping[Any, Any] | None) -> dict[str, float]:
    """Return the metrics that are finite numbers, by their names as plain texts.

    Others are left out: what is unknown or has several elements, the package's own metrics, and of very many the last ones.
    """
    found: dict[str, float] = {}
    if not isinstance(logged, Mapping):
        return found
    for name, value in logged.items():
        if len(found) == _MOST:
            break
        if isinstance(name, str) and not name.startswith(_OURS) and name not in _AXES:
            number = _number(value)
            if number is not None:
                found[shorten(message(name), _LONGEST)] = number
    return found


def _number(value: Any) -> float | None:  # noqa: ANN401 - whatever is logged
    """Return a scalar, or the one element of an array, as a number; None if it is neither, or not finite."""
    if isinstance(value, str | bytes):
        return None
    try:
        # Of a tensor with gradients, torch warns in float(), but not in item().
        number = float(value.item() if hasattr(value, "item") else value)
    except Exception as error:  # noqa: BLE001 - several elements, or whatever the user's class raises
        pass_users_error(error)
        return None
    return number if isfinite(number) else None

"""The record that a page carries: all of it while that is small; else with longer slices of power and fewer, longer epochs."""

from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from ml_energy_callbacks.record.epochs import limit_epochs
from ml_energy_callbacks.record.power import limit_power
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.record.utf8 import encode_json
from ml_energy_callbacks.safe_text import json_source

_Part = TypeVar("_Part")

_LEAST = 16


def embed(record: RunRecord, most_bytes: int) -> tuple[str, bool]:
    """Return a record as JSON of a bounded size if that is possible, and whether it is complete.

    In a record that is too large, slices of power and epochs are merged until each takes half of the room; its sums are never
    changed.
    """
    json = _json(record)
    if len(json) <= most_bytes:
        return json, True
    bare = replace(record, power={}, epochs=[])
    room = max(0, most_bytes - len(_json(bare))) // 2
    slices = sum(len(series.mean) for series in record.power.values())
    power = _fitted(record.power, lambda most: limit_power(record.power, most), slices, room)
    epochs = _fitted(record.epochs, lambda most: limit_epochs(record.epochs, most), len(_json(record.epochs)), room)
    return _json(replace(bare, power=power or {}, epochs=epochs or [])), False


def _fitted(part: _Part, limited: Callable[[int], _Part], most: int, room: int) -> _Part | None:
    """Return a part of a record within a limit that is halved until it fits; None if it never does."""
    while len(_json(part)) > room:
        if most < _LEAST:
            return None
        most //= 2
        part = limited(most)
    return part


def _json(facts: object) -> str:
    return json_source(encode_json(facts).decode())

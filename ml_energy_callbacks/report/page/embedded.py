"""The record that a page carries: all of it while that is small; else with longer slices of power and fewer, longer epochs."""

from msgspec.structs import replace

from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.record.utf8 import encode_json
from ml_energy_callbacks.safe_text import json_source


def embed(record: RunRecord, most_bytes: int) -> tuple[str, bool]:
    """Return a record as JSON of a bounded size, and whether it is complete.

    A record that is too large is carried without its power over time first, and then without its epochs; its sums are never
    changed.
    """
    for shown in (record, replace(record, power={}), replace(record, power={}, epochs=[])):
        json = json_source(encode_json(shown).decode())
        if len(json) <= most_bytes:
            return json, shown is record
    return json, False

"""What tests found of the energy of their functions, as a table for a terminal."""

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from ml_energy_callbacks.inference.growth import Growth
from ml_energy_callbacks.inference.table import new_table, precise_percent, signed_percent
from ml_energy_callbacks.report.quantities import UNKNOWN, scaled
from ml_energy_callbacks.safe_text import in_texts, printable

_ESTIMATED = "Joules are estimated from time and load: a change of power alone, as by other instructions, is not seen."


def render_growth(found: Sequence[Growth]) -> Group:
    """Return a table of the functions, followed by notes."""
    found = [in_texts(one, printable) for one in found]
    table = new_table(None, "test", "against", "J/call", "change", "±", "verdict", "most grown")
    for one in found:
        table.add_row(
            one.name,
            one.against,
            scaled(one.joules, "J"),
            UNKNOWN if one.relative is None else signed_percent(one.relative),
            UNKNOWN if one.half_width is None else precise_percent(one.half_width),
            one.verdict,
            "" if one.grown is None else one.grown.name,
        )
    notes = dict.fromkeys(f"{one.name}: {note}" for one in found for note in one.notes)
    if any(one.provenance == "estimated" for one in found):
        notes[_ESTIMATED] = None
    return Group(table, *(Text(note) for note in notes))

"""What tests found of the energy of their functions, as a table for a terminal."""

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from ml_energy_callbacks.inference.growth import BASELINE, Growth
from ml_energy_callbacks.inference.table import new_table, precise_percent, signed_percent
from ml_energy_callbacks.metrics import ratio
from ml_energy_callbacks.report.quantities import UNKNOWN, scaled
from ml_energy_callbacks.safe_text import in_texts, printable

_ESTIMATED = "Joules are estimated from time and load: a change of power alone, as by other instructions, is not seen."
_MOST_NAMES = 3


def render_growth(found: Sequence[Growth]) -> Group:
    """Return a table of the functions, followed by notes."""
    found = [in_texts(one, printable) for one in found]
    names = _short([one.name for one in found])
    pairs = any(one.against != BASELINE for one in found)
    table = new_table(None, "test", *(["against"] if pairs else []), "J/call", "±", "change", "±", "verdict", "most grown")
    for name, one in zip(names, found, strict=True):
        table.add_row(
            name,
            *([one.against] if pairs else []),
            scaled(one.joules, "J"),
            _percent(ratio(one.joules_half_width, one.joules)),
            UNKNOWN if one.relative is None else signed_percent(one.relative),
            _percent(one.half_width),
            one.verdict,
            "" if one.grown is None else one.grown.name,
        )
    notes: dict[str, list[str]] = {}
    for name, one in zip(names, found, strict=True):
        for note in one.notes:
            notes.setdefault(note, []).append(name)
    lines = [f"{_listed(of)}: {note}" for note, of in notes.items()]
    if any(one.provenance == "estimated" for one in found):
        lines.append(_ESTIMATED)
    return Group(table, *(Text(line) for line in lines))


def _short(names: Sequence[str]) -> list[str]:
    """Return the names of tests without their files, where these are not needed to tell them apart."""
    short = [name.partition("::")[2] or name for name in names]
    return short if len(set(short)) == len(names) else list(names)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else precise_percent(share)

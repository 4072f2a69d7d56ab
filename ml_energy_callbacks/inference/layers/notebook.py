"""The layers of a network as text, in notebooks, as data frames, and as pictures."""

from itertools import accumulate
from typing import Any
from xml.etree.ElementTree import Element

import msgspec

from ml_energy_callbacks.inference.layers.results import LayerCost, LayerProfile
from ml_energy_callbacks.inference.layers.table import (
    joules_per_gigaflop,
    layer_lines,
    range_of,
    render_layers,
    rows_of,
    title_of,
)
from ml_energy_callbacks.inference.table import as_text
from ml_energy_callbacks.report.drawing import Slab, icicle, node, series_colour
from ml_energy_callbacks.report.notebook import Picture, fragment, frame
from ml_energy_callbacks.report.page.tables import amounts, table, texts
from ml_energy_callbacks.report.quantities import UNKNOWN, column_with_ranges, percent, scaled, scaled_range
from ml_energy_callbacks.safe_text import in_texts, printable


def layers_text(profile: LayerProfile, width: int) -> str:
    """Return the table and notes for a terminal of this width."""
    return as_text(render_layers(profile), width)


def layers_html(profile: LayerProfile) -> str:
    """Return the layers as a notebook shows them: the finding, picture, table, and notes."""
    profile = in_texts(profile, printable)
    first, *notes = layer_lines(profile) or [""]
    folded = node("details", node("summary", "Notes"), node("ul", (node("li", line) for line in notes)))
    headline = [node("p", node("strong", first))] if first else []
    return fragment([*headline, _picture(profile), _table(profile), *([folded] if notes else [])])


def plot_layers(profile: LayerProfile) -> Picture:
    """Return the picture and the table of the layers."""
    profile = in_texts(profile, printable)
    return Picture(title_of(profile), [_picture(profile), _table(profile)])


def layers_frame(profile: LayerProfile) -> Any:  # noqa: ANN401 - of pandas or polars
    """Return the layers and the rest as rows of a data frame."""
    return frame([msgspec.structs.asdict(cost) for cost in (*profile.layers, profile.rest)])


def _picture(profile: LayerProfile) -> Element:
    by_energy = profile.whole.joules is not None
    hint = "a layer is as wide as its energy" if by_energy else "a layer is as wide as its time; the energy is not known"
    if profile.provenance == "estimated":
        hint += "; hatched: estimated"
    unit = "J/step" if by_energy else "s/step"
    return icicle(title_of(profile), _whole(profile), unit=unit, hint=hint, empty="No step was timed.")


def _whole(profile: LayerProfile) -> Slab:
    """Return the step with its layers and the rest."""
    by_energy = profile.whole.joules is not None
    estimated = profile.provenance == "estimated"
    inside: list[list[Slab]] = [[] for _ in range(1 + max((layer.depth for layer in profile.layers), default=0))]
    numbers = accumulate(layer.depth == 1 for layer in profile.layers)  # the parts of a layer have its colour
    for layer, number in reversed(list(zip(profile.layers, numbers, strict=True))):  # and come after it
        parts, inside[layer.depth] = inside[layer.depth], []
        slab = _slab(layer, series_colour(number - 1), parts, by_energy=by_energy, estimated=estimated)
        inside[layer.depth - 1].insert(0, slab)
    rest = _slab(profile.rest, "grey", [], by_energy=by_energy, estimated=estimated)
    return _slab(profile.whole, "grey", [*inside[0], rest], by_energy=by_energy, estimated=estimated)


def _slab(cost: LayerCost, colour: str, parts: list[Slab], *, by_energy: bool, estimated: bool) -> Slab:
    size = (cost.joules or 0.0) if by_energy else cost.seconds
    return Slab(cost.name, size, colour, _text(cost), estimated, parts)


def _text(cost: LayerCost) -> str:
    kind = f" ({cost.kind})" if cost.kind else ""
    parts = [f"{scaled(cost.seconds, 's')} ({percent(cost.time_share)} of the time)"]
    if cost.joules is not None:
        ends = range_of(cost)
        within = "" if ends is None else f", {scaled_range(*ends, 'J')}"
        parts.insert(0, f"{scaled(cost.joules, 'J')} ({percent(cost.joules_share or 0.0)}{within})")
    return f"{cost.name}{kind}: {', '.join(parts)}"


def _table(profile: LayerProfile) -> Element:
    rows = rows_of(profile)
    unit, energies, ranges = column_with_ranges([row.joules for row in rows], [range_of(row) for row in rows], "J")
    columns = [
        texts("Layer", [f"{chr(0xA0) * 3 * max(0, row.depth - 1)}{row.name}" for row in rows]),
        texts("Type", [row.kind for row in rows]),
        texts(f"Energy,\u00a0{unit}", energies, numeric=True),
        texts(f"95 % interval,\u00a0{unit}", ranges, numeric=True),
        texts("Share", [UNKNOWN if row.joules_share is None else percent(row.joules_share) for row in rows], numeric=True),
        amounts("Forward", [row.forward_seconds for row in rows], "s"),
        amounts("Backward", [row.backward_seconds for row in rows], "s"),
        texts("Time", [percent(row.time_share) for row in rows], numeric=True),
        amounts("Operations", [row.flops for row in rows], "FLOP"),
        amounts("Energy of an operation", [joules_per_gigaflop(row) for row in rows], "J/GFLOP"),
    ]
    known = [each for each in columns if any(cell not in {UNKNOWN, ""} for cell in each.cells)]
    return table(title_of(profile), known, total=len(rows) - 1)

"""The layers of a network as a table for a terminal."""

from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.text import Text

from ml_energy_callbacks.inference.layers.results import LayerCost, LayerProfile
from ml_energy_callbacks.report.fitted_table import Column, FittedTable
from ml_energy_callbacks.report.quantities import UNKNOWN, column, column_with_ranges, percent, scaled, uncertainty
from ml_energy_callbacks.safe_text import in_texts, printable

_FLOPS = 1e9
_NARROWEST = 14


def render_layers(profile: LayerProfile) -> Group:
    """Return the table of the layers, the rest and the step, followed by notes."""
    profile = in_texts(profile, printable)
    rows = rows_of(profile)
    table = FittedTable(
        [
            Column("layer", [f"{'  ' * max(0, row.depth - 1)}{row.name}" for row in rows], left=True, narrowest=_NARROWEST),
            Column("type", [row.kind for row in rows], rank=6, left=True),
            *(Column(f"{head}\n{unit}", texts, rank=rank) for head, unit, texts, rank in _figures(rows)),
        ],
        sections=[len(profile.layers)],
        title=title_of(profile),
    )
    return Group(table, *(Text(line) for line in layer_lines(profile)))


def rows_of(profile: LayerProfile) -> list[LayerCost]:
    """Return the layers, the rest and the step."""
    return [*profile.layers, profile.rest, profile.whole]


def title_of(profile: LayerProfile) -> str:
    """Return the heading of tables and pictures."""
    return f"Layers of {profile.module} in a step"


def layer_lines(profile: LayerProfile) -> list[str]:
    """Return what a profile found as sentences: the largest layer first, then notes."""
    return [*_verdict(profile), *_certainty(profile), *_reasons(profile), *profile.notes]


def range_of(cost: LayerCost) -> tuple[float, float] | None:
    """Return the ends of the interval of a layer's energy in J; None if there is none."""
    return None if cost.low_joules is None or cost.high_joules is None else (cost.low_joules, cost.high_joules)


def joules_per_gigaflop(cost: LayerCost) -> float | None:
    """Return the energy of 10⁹ operations in J, or None."""
    return None if cost.joules_per_flop is None else cost.joules_per_flop * _FLOPS


def _figures(rows: Sequence[LayerCost]) -> Iterator[tuple[str, str, Sequence[str], int]]:
    """Yield heading, unit, cells and rank of the columns of which something is known."""
    unit, energies, ranges = column_with_ranges([row.joules for row in rows], [range_of(row) for row in rows], "J")
    seconds = [value for row in rows for value in (row.forward_seconds, row.backward_seconds)]
    time_unit, times = column(seconds, "s")
    flops_unit, flops = column([row.flops for row in rows], "FLOP")
    each_unit, each = column([joules_per_gigaflop(row) for row in rows], "J/GFLOP")
    found = [
        ("forward", time_unit, times[::2], 4),
        ("backward", time_unit, times[1::2], 4),
        ("time", "%", [_share(row.time_share) for row in rows], 2),
        ("energy", f"{unit}/step", energies, 0),
        ("95 % interval", f"{unit}/step", ranges, 1),
        ("energy", "%", [_share(row.joules_share) for row in rows], 3),
        ("operations", flops_unit, flops, 7),
        ("energy of", each_unit, each, 5),
    ]
    return (entry for entry in found if any(text != UNKNOWN for text in entry[2]))


def _share(share: float | None) -> str:
    return UNKNOWN if share is None else percent(share).removesuffix(" %")


def _verdict(profile: LayerProfile) -> Iterator[str]:
    top = [layer for layer in profile.layers if layer.depth == 1]
    known = [layer for layer in top if layer.joules_share is not None]
    if known:
        most = max(known, key=lambda layer: layer.joules_share or 0.0)
        yield (
            f"Most energy: {most.name} ({most.kind}), {percent(most.joules_share or 0.0)} of "
            f"{scaled(profile.whole.joules, 'J')} a step."
        )
    elif top:
        most = max(top, key=lambda layer: layer.seconds)
        yield (
            f"Most time: {most.name} ({most.kind}), {percent(most.time_share)} of {scaled(profile.whole.seconds, 's')} a step."
        )


def _certainty(profile: LayerProfile) -> Iterator[str]:
    if profile.provenance is not None:
        source = uncertainty(profile.provenance, profile.relative_uncertainty)
        yield f"Joules are {source} ({', '.join(profile.devices)})."


def _reasons(profile: LayerProfile) -> Iterator[str]:
    """Yield each reason once, with the layers that it is about."""
    names: dict[str, list[str]] = {}
    for row in rows_of(profile):
        if row.reason is not None:
            names.setdefault(row.reason, []).append(row.name)
    for reason, about in names.items():
        yield reason if len(about) == len(rows_of(profile)) else f"{', '.join(about)}: {reason}"

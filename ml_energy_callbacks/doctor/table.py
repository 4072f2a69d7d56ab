"""A diagnosis -> tables for a terminal."""

from collections.abc import Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ml_energy_callbacks.doctor.examination import Diagnosis, Examined, Unmeasured
from ml_energy_callbacks.report import quantity, uncertainty

_METHODS = {
    "energy_counter": "counter",
    "power_integration": "power",
    "model": "model",
}

_SEEN_JITTER_S = 0.001
"""Less than this cannot be told from the spacing of the reads."""


def render(diagnosis: Diagnosis) -> Group:
    """Return the tables of what is measured and of what is not, with what the reader should know below them."""
    parts: list[RenderableType] = [
        _devices("Counted in every total", [device for device in diagnosis.devices if not device.whole_machine])
    ]
    whole = [device for device in diagnosis.devices if device.whole_machine]
    if whole:
        parts.append(_devices("The whole machine, reported beside the total", whole))
    for title, present in (("Here, but not measured", True), ("Not here", False)):
        entries = [entry for entry in diagnosis.unmeasured if entry.present is present]
        if entries:
            parts.append(_unmeasured(title, entries))
    return Group(*parts, *(Text(line) for line in _notes(diagnosis)))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        whole = column in {"watts", "refresh", "how sure"}
        table.add_column(column, justify="right" if column == "watts" else "left", overflow="fold", no_wrap=whole)
    return table


def _devices(title: str, devices: list[Examined]) -> Table:
    table = _table(title, "device", "watts", "by", "refresh", "how sure")
    for device in devices:
        table.add_row(
            f"{device.id}\n{device.name}",
            quantity(device.watts),
            _METHODS[device.method],
            _refresh(device),
            uncertainty(device.provenance, device.relative_uncertainty),
        )
    if not devices:
        table.add_row("none", *[""] * 4)
    return table


def _refresh(device: Examined) -> str:
    if device.method != "energy_counter":
        return "as it is read"
    if device.refresh == "regular" and device.update_period_s is not None:
        jitter = device.refresh_jitter_s or 0.0
        return f"every {device.update_period_s * 1000:.3g} ms" + (
            f" ±{jitter * 1000:.1g} ms" if jitter > _SEEN_JITTER_S else ""
        )
    if device.update_period_s:
        return f"within {device.update_period_s * 1000:.3g} ms"
    return {"continuous": "at each read", "irregular": "irregular"}.get(device.refresh, quantity(None))


def _unmeasured(title: str, entries: Sequence[Unmeasured]) -> Table:
    table = _table(title, "what", "why", "what to do")
    for entry in entries:
        table.add_row(entry.name, entry.reason, entry.fix or "")
    return table


def _notes(diagnosis: Diagnosis) -> Iterator[str]:
    for device in diagnosis.devices:
        if device.note is not None:
            yield f"{device.id}: {device.note}"
        if device.cross_check is not None:
            yield f"{device.id}: counter / its own power, integrated: {device.cross_check:+.1%}.".replace("%", " %")
        if device.missing_s:
            yield f"{device.id}: it could not be read for {quantity(device.missing_s, 's')}."
        if device.shared:
            yield f"{device.id}: others may use it, too; its energy is the whole device's."
    yield from diagnosis.notes


def render_watts(watts: Mapping[str, float | None]) -> Table:
    """Return each device's power now."""
    table = _table("Power now, Ctrl-C to end", "id", "watts")
    for name, value in watts.items():
        table.add_row(name, quantity(value))
    return table

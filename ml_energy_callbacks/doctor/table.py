"""A diagnosis as tables for a terminal."""

from collections.abc import Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ml_energy_callbacks.doctor.examination import Diagnosis, Examined, Unmeasured
from ml_energy_callbacks.report import quantity, uncertainty
from ml_energy_callbacks.safe_text import in_texts, printable

_METHODS = {
    "energy_counter": "counter",
    "power_integration": "power",
    "model": "model",
}

_SEEN_JITTER_S = 0.001
"""A smaller jitter cannot be distinguished from the spacing of the reads."""


def render(diagnosis: Diagnosis) -> Group:
    """Return the tables of measured devices and of hardware that is not measured, with notes below them."""
    diagnosis = in_texts(diagnosis, printable)
    parts: list[RenderableType] = [
        _device_table("Counted in every total", [device for device in diagnosis.devices if not device.whole_machine])
    ]
    whole = [device for device in diagnosis.devices if device.whole_machine]
    if whole:
        parts.append(_device_table("The whole machine, reported separately", whole))
    for title, present in (("Present, but not measured", True), ("Not present", False)):
        entries = [entry for entry in diagnosis.unmeasured if entry.present is present]
        if entries:
            parts.append(_unmeasured_table(title, entries))
    return Group(*parts, *(Text(line) for line in _notes(diagnosis)))


def _make_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        whole = column in {"watts", "refresh", "uncertainty"}
        table.add_column(column, justify="right" if column == "watts" else "left", overflow="fold", no_wrap=whole)
    return table


def _device_table(title: str, devices: list[Examined]) -> Table:
    table = _make_table(title, "device", "watts", "method", "refresh", "uncertainty")
    for device in devices:
        table.add_row(
            f"{device.id}\n{device.name}",
            quantity(device.watts),
            _METHODS[device.method],
            _refresh_text(device),
            uncertainty(device.provenance, device.relative_uncertainty),
        )
    if not devices:
        table.add_row("none", *[""] * 4)
    return table


def _refresh_text(device: Examined) -> str:
    if device.method != "energy_counter":
        return "at each read"
    if device.refresh == "regular" and device.update_period_s is not None:
        jitter = device.refresh_jitter_s or 0.0
        return f"every {device.update_period_s * 1000:.3g} ms" + (
            f" ±{jitter * 1000:.1g} ms" if jitter > _SEEN_JITTER_S else ""
        )
    if device.update_period_s:
        return f"within {device.update_period_s * 1000:.3g} ms"
    return {"continuous": "at each read", "irregular": "irregular"}.get(device.refresh, quantity(None))


def _unmeasured_table(title: str, entries: Sequence[Unmeasured]) -> Table:
    table = _make_table(title, "device or backend", "reason", "fix")
    for entry in entries:
        table.add_row(entry.name, entry.reason, entry.fix or "")
    return table


def _notes(diagnosis: Diagnosis) -> Iterator[str]:
    for device in diagnosis.devices:
        if device.note is not None:
            yield f"{device.id}: {device.note}"
        if device.cross_check is not None:
            yield f"{device.id}: its counter differs from its integrated power by {device.cross_check:+.1%}.".replace("%", " %")
        if device.missing_s:
            yield f"{device.id}: could not be read for {quantity(device.missing_s, 's')}."
        if device.shared:
            yield f"{device.id}: others may also use it; its energy is that of the whole device."
    yield from diagnosis.notes


def render_watts(watts: Mapping[str, float | None]) -> Table:
    """Return each device's present power as a table."""
    table = _make_table("Present power (Ctrl-C to stop)", "id", "watts")
    for name, value in watts.items():
        table.add_row(printable(name), quantity(value))
    return table

"""A diagnosis as tables for a terminal."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ml_energy_callbacks.doctor.examination import Diagnosis, Examined, Unmeasured
from ml_energy_callbacks.report.fitted_table import Column, FittedTable
from ml_energy_callbacks.report.quantities import percent, quantity, uncertainty
from ml_energy_callbacks.safe_text import in_texts, printable

_METHODS = {
    "energy_counter": "counter",
    "power_integration": "power",
    "model": "model",
}

_SEEN_JITTER_S = 0.001
"""A smaller jitter cannot be distinguished from the spacing of the reads."""


def render(diagnosis: Diagnosis, *, everything: bool = False) -> Group:
    """Return what this machine can do, what to do about the rest, and tables of its devices.

    Args:
        diagnosis: The diagnosis.
        everything: Whether to list hardware that is not present, too.
    """
    diagnosis = in_texts(diagnosis, printable)
    parts: list[RenderableType] = [Text(line) for line in _summary(diagnosis)]
    parts += [
        Text(),
        _device_table("Counted in every total", [device for device in diagnosis.devices if not device.whole_machine]),
    ]
    whole = [device for device in diagnosis.devices if device.whole_machine]
    if whole:
        parts.append(_device_table("The whole machine, reported separately", whole))
    for title, present in (("Present, but not measured", True), *([("Not present", False)] if everything else [])):
        entries = [entry for entry in diagnosis.unmeasured if entry.present is present]
        if entries:
            parts.append(_unmeasured_table(title, entries))
    parts += [Text(line) for line in _notes(diagnosis)]
    absent = sum(not entry.present for entry in diagnosis.unmeasured)
    if absent and not everything:
        parts.append(Text(f"{absent} kinds of hardware are not present: ml-energy doctor --all lists them."))
    return Group(*parts)


def _summary(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield what this machine can do, and then what to do about it."""
    counted = [device for device in diagnosis.devices if not device.whole_machine]
    estimated = [device for device in counted if device.provenance == "estimated"]
    measured = [device for device in counted if device.provenance == "measured"]
    doubt = "" if diagnosis.relative_uncertainty is None else f" ±{percent(diagnosis.relative_uncertainty)}"
    if not counted:
        yield "Energy is unknown: no device of this machine can be read."
    elif not estimated:
        yield f"Energy is measured{doubt}: {_kinds(measured)}."
    elif not measured:
        machine = "a virtual machine without counters" if diagnosis.virtual else "no counter of this machine can be read"
        yield f"Energy is estimated{doubt}: {machine}."
    else:
        total = doubt and f":{doubt} in total"
        yield f"Energy is measured for {_kinds(measured)}, and estimated for {_kinds(estimated)}{total}."
    for entry in diagnosis.unmeasured:
        if entry.present and entry.fix is not None:
            yield f"To do: {entry.reason} {entry.fix}"
    if estimated and not any(device.whole_machine for device in diagnosis.devices):
        other = "use a machine that is not virtual, or " if diagnosis.virtual else ""
        yield f"To measure what is estimated, {other}connect a smart plug (ML_ENERGY_PLUGS)."


_KINDS = {"gpu": "GPU", "cpu": "processor", "dram": "memory", "tpu": "TPU", "soc": "chip", "board": "board"}


def _kinds(devices: Sequence[Examined]) -> str:
    """Return kinds of devices with their numbers: ``2 GPUs and processor``."""
    counts = Counter(_KINDS[device.kind] for device in devices)
    *others, last = (name if count == 1 else f"{count} {name}s" for name, count in counts.items())
    return f"{', '.join(others)} and {last}" if others else last


def _make_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        whole = column in {"watts", "refresh", "uncertainty"}
        table.add_column(column, justify="right" if column == "watts" else "left", overflow="fold", no_wrap=whole)
    return table


def _device_table(title: str, devices: list[Examined]) -> FittedTable:
    return FittedTable(
        [
            Column("device", [f"{device.id}\n{device.name}" for device in devices] or ["none"], left=True, narrowest=14),
            Column("watts", [quantity(device.watts) for device in devices] or [""]),
            Column("method", [_METHODS[device.method] for device in devices] or [""], rank=2, left=True),
            Column("refresh", [_refresh_text(device) for device in devices] or [""], rank=3, left=True),
            Column(
                "uncertainty",
                [uncertainty(device.provenance, device.relative_uncertainty) for device in devices] or [""],
                rank=1,
                left=True,
            ),
        ],
        title=title,
    )


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

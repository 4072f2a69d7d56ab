"""The files ``emissions.csv`` of codecarbon 1 to 3, those of its tasks, and this package's own export in that format."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ml_energy_callbacks.carbon.delimited import Row, TextFile, header_cells, read_table, to_time
from ml_energy_callbacks.carbon.places import country_of
from ml_energy_callbacks.fleet.imports.build import (
    UTC_ASSUMED,
    device_record,
    known_carbon,
    provenance_of,
    run_record,
    stage_part,
)
from ml_energy_callbacks.fleet.imports.notes import LineNotes
from ml_energy_callbacks.metrics import JOULES_PER_KWH, known_sum
from ml_energy_callbacks.readings import Kind, Method, Provenance
from ml_energy_callbacks.record.schema import DeviceRecord, ImportRecord, RunRecord, StageRecord

TOOL = "codecarbon"

_KILO = 1000.0
_PARTS: Mapping[str, tuple[Kind, Method, Provenance, str | None]] = {
    "cpu": ("cpu", "model", "estimated", "The file does not say whether its energy was measured or is that of a power model."),
    "gpu": ("gpu", "energy_counter", "measured", None),
    "ram": ("dram", "model", "estimated", "codecarbon assumes a constant power of the memory."),
}
_OTHERS = "other devices"
_ROUNDING = 1e-9
"""Share of the energy by which the sum of the parts may differ from it."""

_NEIGHBOURS = 8


def recognise(head: Sequence[str]) -> bool:
    """Return whether a file begins as codecarbon's do."""
    return _is_header(header_cells(head[0]))


def _is_header(cells: Sequence[str]) -> bool:
    return {"emissions", "duration", "timestamp", "project_name"} <= set(cells)


@dataclass(slots=True)
class _Found:
    """The rows of one run: the last state of it, or of each of its tasks."""

    rows: dict[str, Row] = field(default_factory=dict)
    count: int = 0


def read(file: TextFile, notes: LineNotes) -> list[RunRecord]:
    """Return the runs of a file.

    Rows with the id of one run are states of its running totals, as codecarbon writes them meanwhile, of which the last is the
    total; rows of its tasks are parts of the run. Rows without an id are runs of their own.
    """
    runs: dict[str, _Found] = {}
    for row in read_table(file, _is_header, notes.add):
        try:
            duration = _number(row, "duration")
            to_time(row.cells["timestamp"])
        except ValueError as error:
            notes.add(row.line, f"{error}; the row is left out")
            continue
        run = runs.setdefault(row.cells.get("run_id") or "\n".join(row.cells.values()), _Found())
        task = row.cells.get("task_name", "")
        before = run.rows.get(task)
        if before is not None and before.cells == row.cells:
            notes.add(row.line, "repeats an earlier row and counts once")
            continue
        run.count += 1
        if before is None or duration >= _number(before, "duration"):
            run.rows[task] = row
        else:
            notes.add(row.line, "is an earlier state of its run than a row above and is left out")
    records = []
    for run in runs.values():
        try:
            records.append(_record(file, run))
        except ValueError as error:
            notes.add(next(iter(run.rows.values())).line, f"{error}; the run is left out")
    if records:
        notes.say(UTC_ASSUMED)
    return records


def _number(row: Row, column: str) -> float:
    value = row.number(column)
    if value is None or value < 0:
        msg = f"{column} is {row.cells[column]!r}, which is no duration"
        raise ValueError(msg)
    return value


def _record(file: TextFile, found: _Found) -> RunRecord:
    """Return the record of a run.

    Raises:
        ValueError: A figure is no number, or impossible; the message says so.
    """
    rows = list(found.rows.values())
    last = rows[-1]
    cells = last.cells
    version = cells.get("codecarbon_version") or None
    pue = last.number("pue") or 1.0
    if pue < 1:
        msg = f"pue is {pue:g}, which is below 1"
        raise ValueError(msg)
    seconds = math.fsum(_number(row, "duration") for row in rows)
    states = [_figures(row, pue) for row in rows]
    kwh = _sum([state.kwh for state in states])
    grams = _sum([state.grams for state in states])
    devices = _devices(states, last)
    location = _location(cells)
    carbon = known_carbon(kwh, grams, f"codecarbon {version}" if version else TOOL, location, pue)
    wue, water = last.number("wue"), _sum([row.number("water_consumed") for row in rows])
    if version and not wue:
        wue = water = None  # its default, with which it did not reckon the water
    carbon.wue = wue
    carbon.water_litres = None if water is None else _undo(water, water / pue, lambda litres: litres * pue)
    ended = to_time(cells["timestamp"])
    project = cells.get("project_name") or None
    return run_record(
        ImportRecord(tool=TOOL, version=version, file=str(file.path), line=last.line, rows=found.count),
        key=f"{cells.get('run_id')} {cells['timestamp']} {project}",
        run_id=cells.get("run_id"),
        started_at=_began(ended, seconds),
        ended_at=ended,
        seconds=seconds,
        devices=devices,
        joules=None if kwh is None else kwh * JOULES_PER_KWH,
        kwh=kwh,
        grams=grams,
        carbon=carbon,
        parts={name: state.part(devices) for name, state in zip(found.rows, states, strict=True) if name},
        model=None if version and project == TOOL else project,
        tags={"experiment_id": cells["experiment_id"]} if cells.get("experiment_id") and version else {},
        versions={"python": cells["python_version"]} if cells.get("python_version") else {},
    )


def _began(ended: datetime, seconds: float) -> datetime:
    try:
        return ended - timedelta(seconds=seconds)
    except OverflowError:
        msg = f"duration is {seconds:g} s, which is longer than time"
        raise ValueError(msg) from None


@dataclass(frozen=True, slots=True)
class _Figures:
    """What a row says, without PUE: seconds, kWh, g CO2e, and J by the part of the machine."""

    seconds: float
    kwh: float | None
    grams: float | None
    joules: Mapping[str, float | None]

    def part(self, devices: Sequence[DeviceRecord]) -> StageRecord:
        """Return the record of a task that ran on these devices."""
        used = {f"{TOOL}:{part}": joules for part, joules in self.joules.items() if joules is not None}
        devices = [device for device in devices if device.id in used]
        known = {device.id: used[device.id] for device in devices}
        provenance = provenance_of(devices)
        return stage_part(None if self.kwh is None else self.kwh * JOULES_PER_KWH, self.seconds, known, provenance, self.grams)


def _figures(row: Row, pue: float) -> _Figures:
    seconds, energy, emissions = _number(row, "duration"), row.number("energy_consumed"), row.number("emissions")
    if energy is not None and energy < 0:
        msg = f"energy_consumed is {energy:g}, which is below 0"
        raise ValueError(msg)
    return _Figures(
        seconds=seconds,
        kwh=None if energy is None else _undo(energy, energy / pue, lambda kwh: kwh * pue),
        grams=None if emissions is None else _undo(emissions, emissions * _KILO, lambda grams: grams / _KILO),
        joules={part: _joules(row, part, pue, seconds) for part in _PARTS if f"{part}_energy" in row.cells},
    )


def _joules(row: Row, part: str, pue: float, seconds: float) -> float | None:
    """Return the energy of a part of the machine in J, from which its energy and mean power in the file follow."""
    energy, power = row.number(f"{part}_energy"), row.number(f"{part}_power")
    if energy is None:
        return None
    if energy < 0:
        msg = f"{part}_energy is {energy:g}, which is below 0"
        raise ValueError(msg)
    guess = energy * JOULES_PER_KWH / pue
    by_energy = _undo(energy, guess, lambda joules: joules * pue / JOULES_PER_KWH)
    if power is None or not seconds:
        return by_energy
    both = _undo((energy, power), guess, lambda joules: (joules * pue / JOULES_PER_KWH, joules * pue / seconds))
    return both if both != guess else by_energy


def _undo(target: object, guess: float, forward: Callable[[float], Any]) -> float:
    """Return the number closest to a guess from which a function makes the target; the guess if there is none.

    A quotient is not always the factor of which the product is: without this, a figure could change in its last digit.
    """
    low = high = guess
    for _ in range(_NEIGHBOURS):
        for value in (low, high):
            if forward(value) == target:
                return value
        low, high = math.nextafter(low, -math.inf), math.nextafter(high, math.inf)
    return guess


def _devices(states: Sequence[_Figures], row: Row) -> list[DeviceRecord]:
    """Return the parts of the machine, and what of its energy belongs to none of them."""
    devices = []
    for part, (kind, method, provenance, note) in _PARTS.items():
        joules = _sum([state.joules.get(part) for state in states])
        model = row.cells.get(f"{part}_model") or ("memory" if part == "ram" else "")
        count = round(row.number("gpu_count") or 0) if part == "gpu" else 1
        if joules is None if part == "ram" else not joules and not (model and count):
            continue
        devices.append(
            device_record(
                f"{TOOL}:{part}", model, kind, joules, method=method, provenance=provenance, note=note, count=max(1, count)
            )
        )
    kwh = _sum([state.kwh for state in states])
    rest = None if kwh is None else kwh * JOULES_PER_KWH - math.fsum(device.joules or 0.0 for device in devices)
    if rest is not None and kwh is not None and rest > _ROUNDING * kwh * JOULES_PER_KWH:
        devices.append(
            device_record(
                f"{TOOL}:rest", _OTHERS, "board", rest, method="model", provenance=provenance_of(devices) or "estimated"
            )
        )
    return devices


def _location(cells: Mapping[str, str]) -> str | None:
    """Return the code of the place, by which this package knows it, or the country's."""
    country, region = cells.get("country_iso_code") or None, cells.get("region") or ""
    provider, cloud_region = cells.get("cloud_provider"), cells.get("cloud_region")
    if provider and cloud_region:
        return f"{provider}:{cloud_region}"
    return region if country and region and country_of(region) == country else country


def _sum(values: Sequence[float | None]) -> float | None:
    if len(values) == 1:
        return values[0]
    return None if known_sum(values) is None else math.fsum(value for value in values if value is not None)

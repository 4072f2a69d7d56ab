"""carbontracker's pair of logs: ``…_carbontracker.log`` has the epochs, ``…_carbontracker_output.log`` the totals with PUE."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ml_energy_callbacks.carbon.delimited import TextFile, to_number, to_time
from ml_energy_callbacks.fleet.imports.build import UTC_ASSUMED, device_record, known_carbon, run_record
from ml_energy_callbacks.fleet.imports.notes import LineNotes, whole_lines
from ml_energy_callbacks.metrics import JOULES_PER_KWH
from ml_energy_callbacks.readings import Kind
from ml_energy_callbacks.record.schema import DeviceRecord, EpochRecord, ImportRecord, RunRecord

TOOL = "carbontracker"

_LOG, _OUTPUT = "_carbontracker.log", "_carbontracker_output.log"
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) - (.*)")
_VERSION = re.compile(r"carbontracker version (\S+)")
_PUE = re.compile(r"multiplied by a PUE coefficient of ([\d.]+)")
_COMPONENTS = re.compile(r"(\w+) with device\(s\) (.*?)\.(?= \w+ with|$)")
_EPOCH = re.compile(r"Epoch (\d+):")
_DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_POWER = re.compile(r"Average power usage \(W\) for (\w+): (.*)")
_OPEN = re.compile(r"Average power usage \(W\) for \w+: \[[^\]]*$")
_PLACE = re.compile(r"Average carbon intensity .* at detected location: (.*?)\.?$")
_TOTAL = re.compile(r"(Time|Energy|CO2eq):\s*(\S+)( kWh| g)?")
_INTERRUPTED = "Training was interrupted"
_SIMULATED = "Simulated"
_RAPL = re.compile(r"\w+:\d")
"""How it names the processors that it measures; others have their model's name."""
_APPLE = "CPU"

_GUESSED = " The power was not read: it is simulated, or half of the TDP."

_KINDS: dict[str, Kind] = {"gpu": "gpu", "cpu": "cpu", "dram": "dram"}


def recognise(head: Sequence[str]) -> bool:
    """Return whether a file begins as one of carbontracker's logs does."""
    found = _LINE.match(head[0])
    return found is not None and (_VERSION.match(found[2]) is not None or found[2].startswith("CarbonTracker: "))


@dataclass(slots=True)
class _Epoch:
    index: int
    seconds: float = 0.0
    watts: dict[str, float | None] = field(default_factory=dict)


@dataclass(slots=True)
class _Found:
    """What a log says."""

    began: datetime
    line: int
    version: str | None = None
    pue: float | None = None
    devices: dict[str, str] = field(default_factory=dict)
    epochs: list[_Epoch] = field(default_factory=list)
    interrupted: bool = False
    place: str | None = None
    ended: datetime | None = None
    rows: int = 0


@dataclass(slots=True)
class _Totals:
    """What carbontracker printed last as the actual consumption, PUE included."""

    kwh: float | None = None
    grams: float | None = None


def read(file: TextFile, notes: LineNotes) -> list[RunRecord]:
    """Return the run of a log, with the totals of the other log that is beside it.

    Raises:
        RecordError: It is the one with the totals, and the other one, which states their PUE, is not beside it.
    """
    main = file
    if file.path.name.endswith(_OUTPUT):
        main = TextFile(file.path.with_name(file.path.name.removesuffix(_OUTPUT) + _LOG))
    totals_file = TextFile(main.path.with_name(main.path.name.removesuffix(_LOG) + _OUTPUT))
    if not main.path.exists() or not main.path.name.endswith(_LOG):
        raise file.error(
            1,
            f"its energy includes a PUE that only the log with the same name and the ending {_LOG} states; put that beside it",
        )
    found = _read_log(main, notes)
    if found is None:
        return []
    totals = _read_totals(totals_file, notes) if totals_file.path.exists() else _Totals()
    if totals.kwh is None:
        notes.say(
            "The log with the totals is missing or has none; they are the sums of the epochs, whose durations are rounded."
        )
    notes.say(UTC_ASSUMED)
    return [_record(main, found, totals)]


def _read_log(file: TextFile, notes: LineNotes) -> _Found | None:
    log: _Found | None = None
    for number, line in _joined(whole_lines(file, notes)):
        match = _LINE.match(line)
        if match is None:
            if line.strip():
                notes.add(number, "has no time and is left out")
            continue
        time, text = to_time(match[1]), match[2].strip()
        if log is None:
            log = _Found(time, number)
        log.ended = time if log.ended is None else max(log.ended, time)
        log.rows += 1
        try:
            _add(log, text)
        except ValueError as error:
            notes.add(number, f"{error}; the line is left out")
    return log


def _joined(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the lines with their numbers, those as one over which numpy has broken the powers of many devices."""
    begun: tuple[int, str] | None = None
    for number, line in lines:
        if begun is not None and _LINE.match(line) is None:
            begun = (begun[0], f"{begun[1].rstrip()} {line}")
        else:
            if begun is not None:
                yield begun
            begun = (number, line)
        if _OPEN.search(begun[1]) is None:
            yield begun
            begun = None
    if begun is not None:
        yield begun


def _add(log: _Found, text: str) -> None:
    """Add a line of the log; one of no interest is passed over."""
    if found := _VERSION.match(text):
        log.version = found[1]
    elif found := _PUE.search(text):
        log.pue = to_number(found[1], "the PUE")
    elif "components were found" in text:
        log.devices = {name.lower(): models for name, models in _COMPONENTS.findall(text.partition(":")[2])}
    elif found := _EPOCH.fullmatch(text):
        log.epochs.append(_Epoch(int(found[1])))
    elif (found := _DURATION.fullmatch(text)) and log.epochs:
        log.epochs[-1].seconds = int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
    elif (found := _POWER.fullmatch(text)) and log.epochs:
        values = found[2].strip("[]").split()
        watts = [to_number(value.rstrip(","), "the power") for value in values]
        log.epochs[-1].watts[found[1]] = (
            None if any(value is None for value in watts) else math.fsum(value for value in watts if value is not None)
        )
    elif found := _PLACE.match(text):
        log.place = found[1]
    elif text.startswith(_INTERRUPTED):
        log.interrupted = True


def _read_totals(file: TextFile, notes: LineNotes) -> _Totals:
    totals, actual = _Totals(), False
    for number, line in whole_lines(file, notes):
        text = line.strip()
        if text.startswith(("Actual consumption", "Predicted consumption")):
            actual = text.startswith("Actual")
        found = _TOTAL.fullmatch(text)
        if not actual or found is None:
            continue
        try:
            if found[1] == "Energy":
                totals.kwh = to_number(found[2], "the energy")
            elif found[1] == "CO2eq":
                totals.grams = to_number(found[2], "the emissions")
        except ValueError as error:
            notes.add(number, f"of the log with the totals: {error}")
    return totals


def _record(file: TextFile, log: _Found, totals: _Totals) -> RunRecord:
    epochs = [epoch for epoch in log.epochs if epoch.seconds]
    devices = [
        _device(log, name, epochs) for name in dict.fromkeys([*log.devices, *(name for e in epochs for name in e.watts)])
    ]
    seconds = math.fsum(epoch.seconds for epoch in epochs)
    sums = [device.joules for device in devices if device.joules is not None]
    kwh = totals.kwh / log.pue if totals.kwh is not None and log.pue else math.fsum(sums) / JOULES_PER_KWH if sums else None
    known = log.pue is not None
    grams = totals.grams if known and totals.kwh is not None else None
    source = " ".join(filter(None, (TOOL, log.version)))
    return run_record(
        ImportRecord(tool=TOOL, version=log.version, file=str(file.path), line=log.line, rows=log.rows),
        key=file.path.name,
        started_at=log.began,
        ended_at=log.ended,
        seconds=seconds,
        devices=devices,
        joules=None if kwh is None else kwh * JOULES_PER_KWH,
        kwh=kwh,
        grams=grams,
        carbon=known_carbon(kwh, grams, source, None if log.place in {None, "Unknown"} else log.place, log.pue or 1.0),
        stage="train",
        epochs=_epochs(epochs),
        status="stopped" if log.interrupted else "completed",
        reason="interrupted before all epochs were monitored" if log.interrupted else None,
        incomplete=any(watts is None for epoch in epochs for watts in epoch.watts.values()),
    )


def _device(log: _Found, name: str, epochs: Sequence[_Epoch]) -> DeviceRecord:
    known = [(epoch.watts[name], epoch.seconds) for epoch in epochs if epoch.watts.get(name) is not None]
    seconds = math.fsum(epoch.seconds for epoch in epochs)
    model = log.devices.get(name, name.upper())
    guessed = _is_guessed(name, model)
    return device_record(
        f"{TOOL}:{name}",
        model,
        _KINDS.get(name, "soc"),
        math.fsum((watts or 0.0) * length for watts, length in known) if known else None,
        method="model" if guessed else "power_integration",
        provenance="estimated" if guessed else "measured",
        note=f"Mean power of each epoch times its duration.{_GUESSED if guessed else ''}",
        missing_s=seconds - math.fsum(length for _, length in known) if known else seconds,
        count=model.count(",") + 1,
    )


def _is_guessed(name: str, models: str) -> bool:
    """Return whether the power of a component is no reading: without RAPL, a processor has half of its TDP all the time."""
    read = models == _APPLE or all(map(_RAPL.match, models.split(", ")))
    return models.startswith(_SIMULATED) or (name == "cpu" and not read)


def _epochs(epochs: Sequence[_Epoch]) -> list[EpochRecord]:
    records, started = [], 0.0
    for epoch in epochs:
        joules = {f"{TOOL}:{name}": watts * epoch.seconds for name, watts in epoch.watts.items() if watts is not None}
        records.append(
            EpochRecord(
                stage="train",
                index=epoch.index - 1 if epoch.index else 0,
                joules=math.fsum(joules.values()) if len(joules) == len(epoch.watts) and joules else None,
                seconds=epoch.seconds,
                samples=None,
                co2e_grams=None,
                started_s=started,
                devices=dict(joules),
            )
        )
        started += epoch.seconds
    return records

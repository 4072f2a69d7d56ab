"""Power readings of a log -> energy, at the log's own cadence; pure, and of bounded memory."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ml_energy_callbacks.carbon.delimited import TextFile
from ml_energy_callbacks.fleet.imports.build import device_record, run_record
from ml_energy_callbacks.fleet.imports.notes import LineNotes
from ml_energy_callbacks.readings import Kind, Provenance
from ml_energy_callbacks.record.schema import DeviceRecord, ImportRecord, RunRecord

_GAP_PERIODS, _LEAST_GAP_S = 3.0, 1.0
"""As the sampler: readings that are further apart than three periods, and than 1 s, have a gap between them."""

_BINS_PER_OCTAVE = 8


@dataclass(slots=True)
class _Bin:
    """Intervals of about one length."""

    count: int = 0
    seconds: float = 0.0
    joules: float = 0.0


@dataclass(slots=True)
class PowerLog:
    """The readings of one device.

    What is a gap depends on the cadence, which is known at the end of the log only: until then, the energy of intervals is
    added up by their length, in eighths of an octave.

    Attributes:
        name: Name of the device.
        readings: Number of readings with a power.
        last: Time of the last row in s.
    """

    name: str
    readings: int = 0
    last: float = -math.inf
    _watts: float | None = None
    _bins: dict[int, _Bin] = field(default_factory=dict)

    def add(self, time_s: float, watts: float | None) -> str | None:
        """Add a row; return what is wrong with it, or None.

        Args:
            time_s: Its time in s.
            watts: The power in W; None where it was not read, so that what lies between the rows around it is unknown.
        """
        fault = None
        if time_s == self.last:
            return "has the time of the row before of its device and is left out"
        if time_s < self.last:
            fault = "goes back in time; the energy between it and the row before is unknown"
        elif watts is not None and self._watts is not None:
            elapsed = time_s - self.last
            interval = self._bins.setdefault(round(_BINS_PER_OCTAVE * math.log2(elapsed)), _Bin())
            interval.count += 1
            interval.seconds += elapsed
            interval.joules += (watts + self._watts) / 2 * elapsed
        self.last, self._watts = time_s, watts
        self.readings += watts is not None
        return fault

    @property
    def period_s(self) -> float | None:
        """The median time between two rows in s; None where there are no two."""
        half = sum(interval.count for interval in self._bins.values()) / 2
        seen = 0
        for _, interval in sorted(self._bins.items()):
            seen += interval.count
            if seen >= half:
                return interval.seconds / interval.count
        return None

    @property
    def known(self) -> tuple[float | None, float]:
        """The energy in J without gaps, None where there are no two readings; and the time of which it is, in s."""
        limit = max(_LEAST_GAP_S, _GAP_PERIODS * (self.period_s or 0.0))
        counted = [interval for interval in self._bins.values() if interval.seconds / interval.count <= limit]
        if not counted:
            return None, 0.0
        return math.fsum(interval.joules for interval in counted), math.fsum(interval.seconds for interval in counted)

    @property
    def interleaved(self) -> bool:
        """Whether rows come in quick groups, as those of several devices do."""
        count = sum(interval.count for interval in self._bins.values())
        if count < _ENOUGH:
            return False
        longest = max(interval.seconds / interval.count for interval in self._bins.values() if interval.count > count / 20)
        short = sum(one.count for one in self._bins.values() if one.seconds / one.count < longest / 10)
        return short > count / 4


_ENOUGH = 8
"""Intervals from which on their lengths show whether devices are mixed."""


@dataclass(slots=True)
class PowerRun:
    """One run of a power log, with all devices.

    Attributes:
        began: Time of its first row.
        line: Its line.
        rows: Number of rows.
        devices: The devices by their ids.
    """

    began: datetime
    line: int
    rows: int = 0
    devices: dict[str, PowerLog] = field(default_factory=dict)
    _elapsed: float = 0.0
    _latest: float = 0.0

    def add(self, line: int, time: datetime, device: str, name: str, watts: float | None, notes: LineNotes) -> None:
        """Add a row with a device's power in W, or None where that was not read."""
        time_s = (time - self.began).total_seconds()
        log = self.devices.get(device)
        if log is None:
            log = self.devices[device] = PowerLog(name)
        back = time_s < log.last
        fault = log.add(time_s, watts)
        if fault is not None:
            notes.add(line, fault)
        if watts is None:
            notes.add(line, "has no power; the energy between the rows around it is missing")
        self.rows += 1
        if time_s > self._latest:
            self._elapsed += time_s - self._latest
        if back or time_s > self._latest:
            self._latest = time_s

    def record(
        self,
        file: TextFile,
        tool: str,
        version: str | None,
        *,
        kind: Kind,
        provenance: Provenance = "measured",
        note: str | None = None,
        energy: Mapping[str, float] | None = None,
        model: str | None = None,
    ) -> RunRecord:
        """Return the record of the run.

        Args:
            file: The log.
            tool: Its tool.
            version: The tool's version, or None.
            kind: Kind of the devices.
            provenance: Whether their power was measured.
            note: How it comes about, if that is not plain.
            energy: What counters of the devices say, in J by their ids, which takes precedence over their power.
            model: Name of what ran, or None.
        """
        counted = energy or {}
        devices = [
            self._device(f"{tool}:{own}", log, kind, provenance, note, counted.get(own)) for own, log in self.devices.items()
        ]
        known = [device.joules for device in devices if device.joules is not None]
        return run_record(
            ImportRecord(tool=tool, version=version, file=str(file.path), line=self.line, rows=self.rows),
            key=" ".join(self.devices),
            started_at=self.began,
            seconds=self._elapsed,
            devices=devices,
            joules=math.fsum(known) if known else None,
            incomplete=any(device.missing_s for device in devices if device.method == "power_integration"),
            model=model,
        )

    def _device(
        self, name: str, log: PowerLog, kind: Kind, provenance: Provenance, note: str | None, counted: float | None
    ) -> DeviceRecord:
        joules, known_s = log.known
        missing_s = self._elapsed - known_s
        return device_record(
            name,
            log.name,
            kind,
            joules if counted is None else counted,
            method="power_integration" if counted is None else "energy_counter",
            provenance=provenance,
            note=note,
            missing_s=missing_s if missing_s > (log.period_s or 0.0) else 0.0,
            period_s=log.period_s,
        )

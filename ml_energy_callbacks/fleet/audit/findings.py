"""What an audit finds, and what it looks at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Literal

import msgspec

from ml_energy_callbacks.fleet.imports.build import UTC_ASSUMED
from ml_energy_callbacks.readings import Kind
from ml_energy_callbacks.record.schema import DeviceRecord, RunRecord

Severity = Literal["wrong", "doubtful"]
"""``wrong``: a figure that cannot be true, or that is counted more than once; ``doubtful``: it may be true, and may not."""

Check = Literal[
    "counted-several-times",
    "gpus-averaged",
    "counter-wrap",
    "impossible-power",
    "zero-joules",
    "constant-power",
    "default-place",
    "pue-inside",
    "mixed-factors",
    "gpu-missing",
    "tools-disagree",
    "no-uncertainty",
    "unusable-lines",
]
"""What is looked for, as in docs/audit.md."""

OWN = "ml-energy-callbacks"
"""The tool of records that were not imported."""


class Finding(msgspec.Struct, kw_only=True, frozen=True):
    """What is wrong or doubtful in a run, or in several.

    Attributes:
        check: What was looked for.
        severity: ``wrong`` or ``doubtful``.
        runs: The runs that it is about: paths of records, or logs with the line of the run, such as ``emissions.csv:3``.
        what: What is wrong, without figures.
        evidence: The figures that show it.
        advice: What to do next.
    """

    check: Check
    severity: Severity
    runs: list[str]
    what: str
    evidence: str
    advice: str


class Audit(msgspec.Struct, kw_only=True):
    """What is wrong or doubtful in runs.

    Attributes:
        runs: Number of runs that were looked at.
        wrong: Number of findings that are wrong.
        doubtful: Number of those that are doubtful.
        findings: All of them, what is wrong first.
        unreadable: A sentence for each file that could not be read.
        notes: What was left out or assumed of the logs of other tools, and directories that cannot be listed.
    """

    runs: int
    wrong: int
    doubtful: int
    findings: list[Finding]
    unreadable: list[str] = []
    notes: list[str] = []


@dataclass(frozen=True)  # no slots, for the cached properties
class AuditedRun:
    """A run that is looked at.

    Attributes:
        record: Its record.
        name: What a finding calls it.
        log: Whether it comes from another tool's log itself, not from an imported record.
        cells: Its row of codecarbon's table, which says more than the record of it; empty for all others.
    """

    record: RunRecord
    name: str
    log: bool = False
    cells: Mapping[str, str] = field(default_factory=dict)

    @property
    def tool(self) -> str:
        """The tool that measured it."""
        return OWN if self.record.imported is None else self.record.imported.tool

    @property
    def seconds(self) -> float:
        """Its length in s."""
        return self.record.total.seconds

    @cached_property
    def began(self) -> float:
        """Its start in s since 1970."""
        return datetime.fromisoformat(self.record.run.started_at).timestamp()

    @cached_property
    def ended(self) -> float:
        """Its end in s since 1970."""
        ended = self.record.run.ended_at
        return self.began + self.seconds if ended is None else datetime.fromisoformat(ended).timestamp()

    @cached_property
    def local(self) -> bool:
        """Whether its times have no offset in the log, and may be local ones."""
        return UTC_ASSUMED in self.record.warnings

    @cached_property
    def offset(self) -> float:
        """How far the clock of its host is ahead of UTC, in s."""
        offset = datetime.fromisoformat(self.record.run.started_at).utcoffset()
        return 0.0 if offset is None else offset.total_seconds()

    def overlap(self, other: "AuditedRun") -> float:
        """Return for how many seconds two runs ran at the same time; times without an offset may be local ones of the other."""
        ahead = {0.0, other.offset * self.local - self.offset * other.local}
        return max(0.0, *(min(self.ended - late, other.ended) - max(self.began - late, other.began) for late in ahead))

    def of_kind(self, kind: Kind) -> list[DeviceRecord]:
        """Return its devices of a kind."""
        return [device for device in self.record.devices if device.kind == kind]

    def number(self, column: str) -> float | None:
        """Return a cell as a number; None where there is none."""
        try:
            return float(self.cells.get(column, "").replace(",", "."))
        except ValueError:
            return None

    def finding(self, check: Check, severity: Severity, what: str, evidence: str, advice: str) -> Finding:
        """Return a finding about this run alone."""
        return Finding(check=check, severity=severity, runs=[self.name], what=what, evidence=evidence, advice=advice)

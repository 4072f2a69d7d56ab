"""What is wrong or doubtful in run records and in the logs of other tools, with the evidence."""

import os
from collections.abc import Callable, Iterator, Sequence

from ml_energy_callbacks.fleet.audit.at_once import find_counted_several_times
from ml_energy_callbacks.fleet.audit.cards import find_averages, find_missing, find_missing_beside
from ml_energy_callbacks.fleet.audit.disagreement import find_disagreements
from ml_energy_callbacks.fleet.audit.factors import find_default_places, find_mixed_factors
from ml_energy_callbacks.fleet.audit.findings import Audit, AuditedRun, Finding
from ml_energy_callbacks.fleet.audit.gathering import gather
from ml_energy_callbacks.fleet.audit.joules import find_beyond_hardware, find_constants, find_zeros
from ml_energy_callbacks.fleet.audit.sums import find_no_uncertainty, find_pue
from ml_energy_callbacks.fleet.audit.table import render_audit

__all__ = ["Audit", "Finding", "audit", "render_audit"]

_OF_ONE: Sequence[Callable[[AuditedRun], Iterator[Finding]]] = (
    find_beyond_hardware,
    find_zeros,
    find_averages,
    find_missing,
    find_pue,
    find_constants,
    find_default_places,
    find_no_uncertainty,
)
_OF_SEVERAL: Sequence[Callable[[Sequence[AuditedRun]], Iterator[Finding]]] = (
    find_counted_several_times,
    find_disagreements,
    find_missing_beside,
    find_mixed_factors,
)


def audit(*paths: str | os.PathLike[str]) -> Audit:
    """Look for what is wrong or doubtful in runs, as ``ml-energy audit`` does; docs/audit.md explains each check.

    Args:
        paths: Records, directories above some, patterns, URLs of these, and logs of other tools such as ``emissions.csv``.

    Returns:
        The findings, what is wrong first, each with its evidence; and which files could not be read.

    Raises:
        RecordError: There is nothing at one of the paths.
        ConfigurationError: A URL needs a package that is missing, or cannot be listed.
    """
    found = gather([os.fspath(path) for path in paths])
    findings = [*found.unusable, *(finding for check in _OF_SEVERAL for finding in check(found.runs))]
    findings += [finding for check in _OF_ONE for run in found.runs for finding in check(run)]
    findings.sort(key=lambda finding: finding.severity == "doubtful")
    wrong = sum(finding.severity == "wrong" for finding in findings)
    return Audit(
        runs=len(found.runs),
        wrong=wrong,
        doubtful=len(findings) - wrong,
        findings=findings,
        unreadable=found.unreadable,
        notes=found.notes,
    )

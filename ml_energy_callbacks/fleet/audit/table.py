"""Findings of an audit for a terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from ml_energy_callbacks.fleet.audit.findings import Audit, Finding
from ml_energy_callbacks.safe_text import in_texts, printable

_MOST_NAMED = 3
_INDENT = (0, 0, 0, 2)


def render_audit(audit: Audit) -> RenderableType:
    """Return the findings, those that say the same of several runs once, and how many there are."""
    audit = in_texts(audit, printable)
    alike: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in audit.findings:
        alike.setdefault((finding.check, finding.severity, finding.what), []).append(finding)
    return Group(*(part for found in alike.values() for part in _paragraph(found)), Text(_sum(audit)))


def _paragraph(found: list[Finding]) -> Iterator[RenderableType]:
    first = found[0]
    yield Text(f"{first.severity}  {first.check}: {first.what}", style="bold red" if first.severity == "wrong" else "bold")
    for finding in found[:_MOST_NAMED]:
        yield Padding(Text(f"{_names(finding.runs)}: {finding.evidence}"), _INDENT)
    if len(found) > _MOST_NAMED:
        names = [name for finding in found[_MOST_NAMED:] for name in finding.runs]
        yield Padding(Text(f"{len(found) - _MOST_NAMED:,} more: {_names(names)}"), _INDENT)
    yield Padding(Text(f"→ {first.advice}"), _INDENT)
    yield Text("")


def _names(runs: list[str]) -> str:
    more = f" and {len(runs) - _MOST_NAMED:,} more" if len(runs) > _MOST_NAMED else ""
    return f"{', '.join(runs[:_MOST_NAMED])}{more}"


def _sum(audit: Audit) -> str:
    runs = "1 run" if audit.runs == 1 else f"{audit.runs:,} runs"
    if not audit.findings:
        return f"Nothing is wrong or doubtful in {runs}."
    return f"{audit.wrong:,} wrong, {audit.doubtful:,} doubtful in {runs}."

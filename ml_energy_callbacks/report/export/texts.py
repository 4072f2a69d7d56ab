"""Texts that are the same in every export: how an energy is known, and which runs it includes; pure."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from math import floor, log10

from ml_energy_callbacks.metrics import JOULES_PER_KWH
from ml_energy_callbacks.record.schema import CarbonRecord, RunRecord
from ml_energy_callbacks.report.export.subject import Activity, Energy, Subject, names_of
from ml_energy_callbacks.report.quantities import percent
from ml_energy_callbacks.safe_text import printable

TOOL = "ml-energy-callbacks"

ASSUMED = "world average, no location set"

_HOW = {"energy_counter": "energy counters", "power_integration": "integrated power readings", "model": "power models"}
_MARKUP = re.compile(r"[\\`*_{}\[\]<>|~]")

ENDED = {"failed": "failed", "stopped": "stopped", "running": "still running or killed", "completed": "completed"}


def tool_version() -> str:
    """Return the version of this package."""
    return version(TOOL)


def figures(value: float) -> str:
    """Return a number with three significant digits, in a notation that forms take: ``1,230``, ``0.0123``, ``1.23*10^-9``."""
    if not value:
        return "0"
    power = floor(log10(abs(float(f"{value:.2e}"))))
    if -5 < power < 9:  # noqa: PLR2004 - more zeros are hard to count
        return f"{value:,.{max(0, 2 - power)}f}"
    return f"{value / 10.0**power:.2f}*10^{power}"


def with_doubt(energy: Energy, value: float, unit: str) -> str:
    """Return a value in proportion to an energy with its interval, such as ``at least 1.23 MWh ±5 %``."""
    least = "at least " if energy.lower_bound else ""
    doubt = "" if energy.relative_uncertainty is None else f" ±{100 * energy.relative_uncertainty:.2g} %"
    return f"{least}{figures(value)} {unit}{doubt}"


def hardware_of(runs: Sequence[RunRecord]) -> str:
    """Return the devices of the runs, those of like runs once."""
    return "; ".join(dict.fromkeys(names_of(run.devices) for run in runs if run.devices)) or "no device that could be read"


def method_of(subject: Subject, *activities: Activity, supplied: bool = False) -> str:
    """Return in about 100 words how the energy of these activities is known: boundary, measured share, estimates, and gaps.

    Args:
        subject: The runs.
        activities: The activities.
        supplied: Whether the energy that is reported includes the data centre's overhead (PUE).
    """
    return " ".join([*_method(subject, activities), _overhead(subject, activities, supplied=supplied)])


def _method(subject: Subject, activities: Sequence[Activity]) -> Iterator[str]:
    runs = subject.runs_of(*activities)
    energy = subject.energy(*activities)
    if runs:
        hosts = sorted({host for run in runs for host in run.run.hostnames})
        named = ", ".join(hosts) if len(hosts) <= 4 else f"{len(hosts)} hosts"  # noqa: PLR2004 - a list of more is no text
        where, tools = (
            f" on {named}" if named else "",
            ", ".join(sorted({imported_from(run) or f"{TOOL} {tool_version()}" for run in runs})),
        )
        yield f"Energy of the devices {hardware_of(runs)}{where}, in full, from the start of each run to its end ({tools})."
        yield from _shares(runs)
        yield _counts(runs)
    if subject.lifetime is not None and "inference" in activities:
        life = subject.lifetime.lifecycle
        yield (
            f"The predictions of the model's lifetime are extrapolated: {life.predictions:,.0f} of "
            f"{figures(life.joules_per_prediction)} J each, as in stage {life.stage}; the interval is that of the "
            "energy of a prediction, not of their number."
        )
    if energy.relative_uncertainty is not None:
        yield f"The half-width of the 95 % interval is {100 * energy.relative_uncertainty:.2g} % of the value."
    yield from _gaps(subject, runs)


def imported_from(run: RunRecord) -> str | None:
    """Return which other tool measured a run, with its version; None of a run that this package measured."""
    if run.imported is None:
        return None
    return " ".join(filter(None, ("imported from", run.imported.tool, run.imported.version)))


def _shares(runs: Sequence[RunRecord]) -> Iterator[str]:
    """Yield which share of the energy was measured and which was estimated, and how."""
    devices = [device for run in runs for device in run.devices if device.joules is not None]
    whole = sum(device.joules or 0.0 for device in devices)
    for provenance in ("measured", "estimated"):
        some = [device for device in devices if device.provenance == provenance]
        if not some:
            continue
        share = f"{_share(sum(device.joules or 0.0 for device in some) / whole)} " if whole else ""
        how = " and ".join(dict.fromkeys(_HOW[device.method] for device in some))
        which = "" if len(some) == len(devices) else f" ({', '.join(dict.fromkeys(device.name for device in some))})"
        yield f"{share}{'is' if share else 'Energy is'} {provenance} with {how}{which}."


def _share(share: float) -> str:
    """Return a share in percent; one that is not all is not shown as all, and one that is not zero not as zero."""
    return ">99 %" if 0.995 < share < 1 else percent(share)  # noqa: PLR2004 - where rounding gives 100 %


def _counts(runs: Sequence[RunRecord]) -> str:
    counts = Counter(ENDED[run.run.status] for run in runs)
    ended = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"All runs count ({ended})." if len(runs) > 1 else f"One run counts ({ended})."


def _gaps(subject: Subject, runs: Sequence[RunRecord]) -> Iterator[str]:
    missing = [run.run.id[:8] for run in runs if subject.lacks_energy(run)]
    if missing:
        yield f"Energy is missing from run {', '.join(missing)}, so that the value is a lower bound."


def _overhead(subject: Subject, activities: Sequence[Activity], *, supplied: bool) -> str:
    factors = sorted({run.carbon.pue for run in subject.runs_of(*activities)} - {1.0})
    if not factors:
        return "Cooling and power distribution of the data centre, storage and networks are not included."
    pue = f"PUE of {' or '.join(f'{factor:g}' for factor in factors)}"
    if supplied:
        return f"Energy and emissions include the data centre's {pue}; storage and networks are not included."
    return (
        "Cooling and power distribution of the data centre, storage and networks are not included; emissions include its "
        f"{pue}."
    )


def run_lines(subject: Subject) -> list[str]:
    """Return each run in one line, and that of a lifetime's prediction, which is not one of them."""
    lines = [run_line(run) for run in subject.runs]
    if subject.lifetime is not None and all(run.run.id != subject.lifetime.prediction.run.id for run in subject.runs):
        lines.append(f"{run_line(subject.lifetime.prediction)} (for the energy of a prediction alone)")
    return lines


def run_line(run: RunRecord) -> str:
    """Return a run in one line: its id, start, status, what the user called it, and its energy."""
    tags = [f"{name}={value}" for name, value in sorted(run.run.tags.items())]
    kwh = "energy unknown" if run.total.joules is None else f"{figures(run.total.joules / JOULES_PER_KWH)} kWh"
    least = "at least " if run.lower_bound and run.total.joules is not None else ""
    return ", ".join([run.run.id, run.run.started_at, ENDED[run.run.status], *tags, f"{least}{kwh}"])


def markdown_text(text: str) -> str:
    """Return a text in one line in which Markdown finds no markup: neither of a table, nor of a link or HTML."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def source_of(carbon: CarbonRecord) -> str:
    """Return who publishes the intensity, and a note if it is that of a different location."""
    return carbon.source if carbon.note is None else f"{carbon.source}; {carbon.note.rstrip('.')}"


def origin_of(carbon: CarbonRecord) -> str:
    """Return the source of the intensity, with the share of the grams that uses another source."""
    partly = 0 < carbon.assumed_share < 1
    parts = [ASSUMED if carbon.assumed and not partly else source_of(carbon)]
    if partly:
        parts.append(f"{_percent(carbon.assumed_share)} of it with the {ASSUMED}")
    if carbon.fallback_share > 0:
        parts.append(f"{_percent(carbon.fallback_share)} of it with a fallback intensity")
    return "; ".join(parts)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"

"""Compare measured functions with each other and with a baseline; pure."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any, Final

from ml_energy_callbacks.inference.baseline import BaselineEntry
from ml_energy_callbacks.inference.growth import BASELINE, Growth, Measurement, PartCost, part_growth
from ml_energy_callbacks.inference.results import Difference
from ml_energy_callbacks.inference.student import difference_between, differences, interval

REFERENCE: Final = "reference"
"""Name of the function that a baseline is measured beside, so that sessions can be compared."""


def compare_two(test: str, before: str, after: str, measured: Measurement, relative_width: float) -> Growth:
    """Compare two functions that were measured in the same rounds.

    Args:
        test: Name of the test.
        before: Name of the first function.
        after: Name of the second one.
        measured: The measurement.
        relative_width: Requested half-width of the interval of joules per call, as a share of it.
    """
    pairs = differences({name: measured.joules[name] for name in (before, after)}, relative_width)
    return _growth(test, before, after, measured, next(iter(pairs), None), measured.parts[before])


def compare_with_baseline(
    test: str, name: str, measured: Measurement, entry: BaselineEntry | None, relative_width: float
) -> Growth:
    """Compare a function with what it was in an earlier session, by its share of the energy of the reference.

    Args:
        test: Name of the test.
        name: Name of the function.
        measured: The measurement, with the reference.
        entry: The function in the baseline; None if it has none.
        relative_width: As in :func:`compare_two`.
    """
    obstacle = None if entry is None else _obstacle(name, measured, entry)
    if entry is None or obstacle is not None:
        found = _growth(test, BASELINE, name, measured, None, {})
        found.notes.extend([] if obstacle is None else [obstacle])
        return found
    pair = difference_between(entry.ratios, _ratios(measured, name), relative_width)
    joules, seconds = _scales(measured)
    before = {part: each.times(seconds, joules) for part, each in entry.parts.items()}
    return _growth(test, BASELINE, name, measured, pair, before)


def entry_of(name: str, measured: Measurement) -> BaselineEntry | None:
    """Return what a baseline has of a function; None where its energy, or that of the reference, is unknown."""
    ratios = _ratios(measured, name)
    if not ratios or measured.provenance is None:
        return None
    joules, seconds = _scales(measured)
    return BaselineEntry(
        joules=fmean(measured.joules[name].values()),
        ratios=ratios,
        parts={part: each.times(1 / seconds, 1 / joules) for part, each in measured.parts[name].items()},
        devices=measured.devices,
        provenance=measured.provenance,
    )


def _obstacle(name: str, measured: Measurement, entry: BaselineEntry) -> str | None:
    """Return why a function cannot be compared with the baseline, in a sentence; None if it can."""
    if not _ratios(measured, name):
        return "Its energy, or that of the reference, is unknown."
    if entry.devices != measured.devices:
        was, now = (", ".join(devices) or "no device" for devices in (entry.devices, measured.devices))
        return f"The baseline was measured on other devices ({was}) than these ({now}); write one here with --energy-save."
    return None


def _scales(measured: Measurement) -> tuple[float, float]:
    """Return the energy of a call of the reference in J, and its time in s."""
    return fmean(measured.joules[REFERENCE].values()), measured.calls[REFERENCE].seconds


def _ratios(measured: Measurement, name: str) -> list[float]:
    """Return the energy of a call as a share of that of the reference, in the rounds that have both."""
    joules, reference = measured.joules[name], measured.joules[REFERENCE]
    return [joules[i] / reference[i] for i in sorted(joules.keys() & reference.keys()) if reference[i] > 0]


def _growth(
    test: str, against: str, name: str, measured: Measurement, pair: Difference | None, before: Mapping[str, PartCost]
) -> Growth:
    joules = measured.joules[name]
    mean = interval(list(joules.values()))
    verdict: dict[str, Any] = {"relative": None, "half_width": None, "verdict": "undecided"}
    if pair is not None:
        verdict = {"relative": pair.relative, "half_width": pair.half_width, "verdict": pair.verdict}
    return Growth(
        name=test,
        against=against,
        joules=None if mean is None else mean.mean,
        joules_half_width=None if mean is None else mean.half_width,
        parts=part_growth(before, measured.parts[name]),
        repeats=len(joules),
        provenance=measured.provenance,
        devices=measured.devices,
        notes=list(measured.notes),
        **verdict,
    )

"""Emissions by a place that nobody named, or by factors that count different things; pure."""

from collections.abc import Iterator, Sequence

from ml_energy_callbacks.fleet.audit.findings import OWN, AuditedRun, Finding
from ml_energy_callbacks.metrics import ratio
from ml_energy_callbacks.report.quantities import percent, quantity, scaled

_FALLBACK = ("46.8", "-71.2")
"""Latitude and longitude of Quebec, which codecarbon takes where no service tells it the place (external/geography.py)."""

_PLACE = "Nobody named the place of the emissions."
_SET = "Set the place (location= here, country_iso_code in codecarbon's offline tracker), or take the energy alone."


def find_default_places(run: AuditedRun) -> Iterator[Finding]:
    """Yield emissions by a default or by a guess of the place."""
    grams, carbon = run.record.total.co2e_grams, run.record.carbon
    if not grams:
        return
    by = f"{scaled(grams, 'g')} CO2e by {quantity(carbon.intensity_g_per_kwh)} g/kWh"
    if run.tool == OWN:
        if not carbon.assumed:
            return
        share = f", {percent(carbon.assumed_share)} of it assumed" if carbon.assumed_share else ""
        fault = f"{by}, the world average{share}"
    elif carbon.location is None:
        fault = f"{by}, and no place in the log"
    elif (run.cells.get("latitude"), run.cells.get("longitude")) == _FALLBACK:
        fault = f"{by} of Quebec, which codecarbon takes where it cannot find the place"
    elif run.cells.get("latitude") and run.cells.get("longitude"):
        found = f"{run.cells['latitude']}, {run.cells['longitude']}"
        fault = f"{by} of {carbon.location}, as the network address seemed to be at {found}"
    else:
        return
    yield run.finding("default-place", "doubtful", _PLACE, f"{fault}.", _SET)


def find_mixed_factors(runs: Sequence[AuditedRun]) -> Iterator[Finding]:
    """Yield factors of the life cycle beside those of what power stations emit, in one run and in several."""
    known = [run for run in runs if run.record.total.co2e_grams and not run.record.carbon.assumed]
    for run in known:
        if run.record.carbon.basis == "mixed":
            yield run.finding(
                "mixed-factors",
                "doubtful",
                "The emissions of a run add up lifecycle and direct factors.",
                f"{scaled(run.record.total.co2e_grams, 'g')} CO2e by {run.record.carbon.source}.",
                "Use one source for the whole run, with a fallback of the same kind.",
            )
    sides = {basis: [run for run in known if run.record.carbon.basis == basis] for basis in ("lifecycle", "direct")}
    if all(sides.values()):
        told = [f"{len(side)} {basis} ({quantity(_intensity(side))} g/kWh, {_examples(side)})" for basis, side in sides.items()]
        yield Finding(
            check="mixed-factors",
            severity="doubtful",
            runs=[run.name for run in min(sides.values(), key=len)],
            what="The emissions of some runs are by lifecycle factors, and those of others by direct ones.",
            evidence=f"{' and '.join(told)}.",
            advice="Do not add up or compare these grams: direct factors leave out building and fuel supply. Use one kind.",
        )


def _intensity(runs: Sequence[AuditedRun]) -> float | None:
    """Return the mean intensity of runs in g/kWh."""
    return ratio(sum(run.record.carbon.intensity_g_per_kwh for run in runs), float(len(runs)))


def _examples(runs: Sequence[AuditedRun]) -> str:
    return ", ".join(dict.fromkeys(run.record.carbon.source for run in runs))

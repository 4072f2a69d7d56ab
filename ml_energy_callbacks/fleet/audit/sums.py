"""Totals that include a PUE, or do not say how uncertain they are; pure."""

from collections.abc import Iterator

from ml_energy_callbacks.fleet.audit.findings import AuditedRun, Finding
from ml_energy_callbacks.report.quantities import quantity, scaled

_ROUNDING = 1e-3
_INSIDE = "The energy includes a PUE."
_ALONE = "The total is multiplied by a PUE, and its parts are not."


def find_pue(run: AuditedRun) -> Iterator[Finding]:
    """Yield energies that a PUE is multiplied into."""
    pue, total = run.record.carbon.pue, run.record.total.joules
    if pue <= 1 or not total:
        return
    parts = sum(device.joules or 0.0 for device in run.record.devices if not device.id.endswith(":rest"))
    written = total * pue if run.log else total
    if parts and abs(written / parts - pue) < _ROUNDING * pue and (not run.log or _has_rest(run)):
        yield run.finding(
            "pue-inside",
            "wrong",
            _ALONE,
            f"{quantity(written)} J in all are {pue:g} times the {quantity(parts)} J of the devices, and the PUE is {pue:g}.",
            f"Take the sum of the devices, {quantity(parts)} J; apply the PUE to grams and cost alone.",
        )
    elif run.log and run.record.total.co2e_grams is not None:
        yield run.finding(
            "pue-inside",
            "doubtful",
            _INSIDE,
            f"The log has {scaled(written / 3600, 'Wh')} with a PUE of {pue:g}; the machine used {scaled(total / 3600, 'Wh')}.",
            "Compare it as a record: ml-energy import writes the energy of the machine, and the PUE beside it.",
        )


def _has_rest(run: AuditedRun) -> bool:
    return any(device.id.endswith(":rest") for device in run.record.devices)


def find_no_uncertainty(run: AuditedRun) -> Iterator[Finding]:
    """Yield totals without an uncertainty."""
    total = run.record.total
    if total.joules is None or total.relative_uncertainty is not None:
        return
    lacking = [device.id for device in run.record.devices if device.joules is not None and device.relative_uncertainty is None]
    yield run.finding(
        "no-uncertainty",
        "doubtful",
        "Nothing says how uncertain the energy is.",
        f"{quantity(total.joules)} J without an interval; unknown for {', '.join(lacking) or 'the total'}.",
        "Draw no conclusion from small differences; measure a run with ml-energy run, too, to see how far they differ.",
    )

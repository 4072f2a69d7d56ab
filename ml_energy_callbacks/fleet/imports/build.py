"""Build the record of a run from the figures of another tool; what the tool does not know is None."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from ml_energy_callbacks.carbon import world
from ml_energy_callbacks.metrics import JOULES_PER_KWH, ratio
from ml_energy_callbacks.readings import Kind, Method, Provenance
from ml_energy_callbacks.record.limits import limit_size
from ml_energy_callbacks.record.schema import (
    CarbonRecord,
    DeviceRecord,
    EpochRecord,
    ImportRecord,
    Launcher,
    PhaseRecord,
    Run,
    RunRecord,
    StageRecord,
    Status,
    TotalRecord,
)

MOST_PARTS = 100
"""Most parts of a run in its record: more, such as one for each step of a training, are left out."""

UTC_ASSUMED = "Its times have no offset; they are read as UTC."


def device_record(
    name: str,
    model: str,
    kind: Kind,
    joules: float | None,
    *,
    method: Method,
    provenance: Provenance,
    note: str | None = None,
    missing_s: float | None = None,
    period_s: float | None = None,
    count: int = 1,
) -> DeviceRecord:
    """Return a device of another tool, whose uncertainty is unknown.

    Args:
        name: Its id, such as ``zeus:gpu-0``.
        model: Its name for people.
        kind: Kind of hardware.
        joules: Its energy in J, or None.
        method: How the tool gets at the energy.
        provenance: Whether it was measured.
        note: How the figure comes about, if that is not plain.
        missing_s: For how many seconds it was not read, or None where that is unknown.
        period_s: Time between two readings in s, or None.
        count: How many devices it is the sum of.
    """
    return DeviceRecord(
        id=name,
        name=model,
        kind=kind,
        backend=name.partition(":")[0],
        method=method,
        provenance=provenance,
        relative_uncertainty=None,
        update_period_s=period_s,
        joules=joules,
        missing_s=missing_s,
        note=note,
        count=count,
    )


def unknown_carbon(location: str | None = None, pue: float = 1.0) -> CarbonRecord:
    """Return the intensity of a run whose emissions are unknown: the world average, which is used for nothing."""
    average = world()
    return CarbonRecord(
        intensity_g_per_kwh=average.g_per_kwh,
        location=location,
        source=average.source,
        data_year=average.data_year,
        assumed=location is None,
        basis=average.basis,
        pue=pue,
    )


def known_carbon(kwh: float | None, grams: float | None, source: str, location: str | None, pue: float = 1.0) -> CarbonRecord:
    """Return the intensity that follows from a tool's own energy and emissions.

    Args:
        kwh: Energy without PUE in kWh, or None.
        grams: Emissions in g CO2e, or None.
        source: The tool.
        location: The place, or None.
        pue: Power usage effectiveness inside the emissions.
    """
    if not kwh or grams is None:
        return unknown_carbon(location, pue)
    return CarbonRecord(
        intensity_g_per_kwh=grams / (kwh * pue), location=location, source=source, data_year=None, assumed=False, pue=pue
    )


def stage_part(
    joules: float | None,
    seconds: float,
    devices: Mapping[str, float],
    provenance: Provenance | None,
    grams: float | None = None,
) -> StageRecord:
    """Return a stage, or a part of one, of which a tool knows energy (J) and time (s)."""
    return StageRecord(
        joules=joules,
        seconds=seconds,
        batches=0,
        samples=None,
        joules_per_sample=None,
        mean_watts=ratio(joules, seconds),
        relative_uncertainty=None,
        provenance=provenance,
        phases={
            "other": PhaseRecord(
                joules=joules,
                seconds=seconds,
                relative_uncertainty=None,
                reason=None if joules is not None else "No device was read.",
            )
        },
        devices=dict(devices),
        co2e_grams=grams,
        cost=None,
    )


def provenance_of(devices: Sequence[DeviceRecord]) -> Provenance | None:
    """Return ``measured`` where all devices that were read were measured; None where none was read."""
    known = [device.provenance for device in devices if device.joules is not None]
    return None if not known else "estimated" if "estimated" in known else "measured"


def run_record(
    source: ImportRecord,
    *,
    key: str,
    started_at: datetime,
    seconds: float,
    devices: Sequence[DeviceRecord],
    joules: float | None,
    kwh: float | None = None,
    grams: float | None = None,
    carbon: CarbonRecord | None = None,
    stage: str = "other",
    parts: Mapping[str, StageRecord] | None = None,
    epochs: Sequence[EpochRecord] = (),
    incomplete: bool = False,
    run_id: str | None = None,
    ended_at: datetime | None = None,
    status: Status = "completed",
    reason: str | None = None,
    model: str | None = None,
    hostnames: Sequence[str] = (),
    launcher: Launcher | None = None,
    job_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> RunRecord:
    """Return the record of a run that another tool measured.

    Args:
        source: Where the figures come from.
        key: What makes the run different from others of the tool: importing it again gives it the same id.
        started_at: Start of the run.
        seconds: Its length in s.
        devices: Its devices.
        joules: Its energy in J as the tool has it, or None.
        kwh: The same in kWh where the tool has it in that unit.
        grams: Its emissions in g CO2e, or None.
        carbon: Where these come from; None where they are unknown.
        stage: The stage that the run is.
        parts: Its named parts, which are left out if there are too many.
        epochs: Its epochs.
        incomplete: Whether a part of its energy is missing.
        run_id: The tool's own id, if it has one.
        ended_at: End of the run; None for ``seconds`` after its start.
        status: How it ended.
        reason: Why.
        model: Name of what ran, or None.
        hostnames: Its hosts, as far as they are known.
        launcher: What started it, or None.
        job_id: What the scheduler calls it, or None.
        tags: Further texts of the tool.
        versions: Versions of the programs, by their names.
    """
    own_id = (run_id or "").replace("-", "")
    if not (own_id.isascii() and own_id.isalnum()):
        own_id = hashlib.sha256(
            f"{source.tool}\n{key}\n{started_at.isoformat()}\n{seconds!r}\n{joules!r}".encode()
        ).hexdigest()[:32]
    known = {device.id: device.joules for device in devices if device.joules is not None}
    whole = stage_part(joules, seconds, known, provenance_of(devices), grams)
    whole.substages = dict(parts) if parts and len(parts) <= MOST_PARTS else {}
    ended_at = ended_at or started_at + timedelta(seconds=seconds)
    return limit_size(
        RunRecord(
            run=Run(
                id=own_id,
                started_at=started_at.isoformat(),
                ended_at=None if status == "running" else ended_at.isoformat(),
                status=status,
                framework=" ".join(filter(None, (source.tool, source.version))),
                hostnames=list(hostnames),
                reason=reason,
                model=model,
                tags=dict(tags or {}),
                launcher=launcher,
                job_id=job_id,
                versions=dict(versions or {}),
            ),
            devices=list(devices),
            stages={stage: whole},
            epochs=list(epochs),
            total=TotalRecord(
                joules=joules,
                kwh=kwh if kwh is not None else ratio(joules, JOULES_PER_KWH),
                seconds=seconds,
                relative_uncertainty=None,
                provenance=whole.provenance,
                co2e_grams=grams,
                cost=None,
                currency="USD",
                lower_bound=incomplete or len(known) < len(devices),
            ),
            carbon=carbon or unknown_carbon(),
            imported=source,
        )
    )

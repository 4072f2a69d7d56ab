"""What a record's parts say of each other: dates that are dates, and devices and hosts that are there; pure."""

from collections.abc import Iterator
from datetime import datetime

from ml_energy_callbacks.record.schema import RunRecord, every_stage


def check_structure(record: RunRecord) -> None:
    """Check what the types of the fields do not say, which every reader of a record relies on.

    Raises:
        ValueError: A part is damaged; the message says which, without a full stop.
    """
    for fault in _faults(record):
        raise ValueError(fault)
    if record.part is not None and record.part.earlier is not None:
        check_structure(record.part.earlier)


def _faults(record: RunRecord) -> Iterator[str]:
    if not record.run.id.isalnum():  # files are named after it
        yield f"{record.run.id!r} is no id of a run"
    yield from (f"{text!r} is no date with an offset" for text in _dates(record) if not _is_date(text))
    known = {device.id for device in (*record.devices, *record.whole_machine)}
    for name, stage in every_stage(record.stages):
        yield from (f"the stage {name} has a device {device!r} that the run has not" for device in stage.devices.keys() - known)
    for epoch in record.epochs:
        if not epoch.devices.keys() <= known:
            yield f"an epoch has a device {min(epoch.devices.keys() - known)!r} that the run has not"
    for name, series in record.power.items():
        if name not in known:
            yield f"there is power of a device {name!r} that the run has not"
        if not len(series.mean) == len(series.low) == len(series.high):
            yield f"the power of {name} has slices of which something is missing"
    for rank in record.ranks:
        if not 0 <= rank.node < len(record.nodes):
            yield f"rank {rank.rank} is on host {rank.node} of {len(record.nodes)}"


def _dates(record: RunRecord) -> Iterator[str]:
    yield record.run.started_at
    if record.run.ended_at is not None:
        yield record.run.ended_at
    if record.forecast is not None:
        yield record.forecast.ends_at
    for interval in record.carbon.intervals:
        yield from (interval.began, interval.ended)


def _is_date(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False

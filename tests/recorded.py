"""What a replay has of the record of the run that was recorded."""

from typing import Any

import msgspec
from msgspec import structs

from ml_energy_callbacks import RunRecord


def figures_of(record: RunRecord) -> dict[str, Any]:
    """Return the figures of a record, without sentences about devices and the addresses of plugs, which are not recorded."""
    devices = [structs.replace(device, note=None) for device in record.devices]
    meters = [structs.replace(meter, id="", name="", note=None) for meter in record.whole_machine]
    run = (record.run.id, record.run.status, record.run.framework, record.run.started_at)
    figures = {
        "run": run,
        "devices": devices,
        "stages": record.stages,
        "total": record.total,
        "power": record.power,
        "whole_machine": meters,
    }
    plain: dict[str, Any] = msgspec.to_builtins(figures)
    return plain

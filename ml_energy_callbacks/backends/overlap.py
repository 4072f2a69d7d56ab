"""Find devices whose energy is included in another device's figure."""

from collections.abc import Sequence

from ml_energy_callbacks.readings import Device


def counted_twice(devices: Sequence[Device]) -> dict[str, str]:
    """Return the devices that another device's figure includes, and the power models of measured kinds, with the reasons."""
    parts = [device for device in devices if not device.whole_machine]
    included = {
        device.id: other.id
        for i, device in enumerate(parts)
        for j, other in enumerate(parts)
        if _includes(other, device)
        and not (i < j and _includes(device, other))  # of two that include each other, the first counts
    }
    counted = [device for device in parts if device.method != "model" and device.id not in included]
    measured_kinds = {kind for device in counted for kind in (device.kind, *device.covers)}
    models = [device.id for device in parts if device.method == "model" and device.kind in measured_kinds]
    return {name: f"{name} is included in the figure of {other}." for name, other in included.items()} | dict.fromkeys(
        models, ""
    )


def _includes(whole: Device, part: Device) -> bool:
    """Return whether a device's figure includes another's energy; devices on different known nodes do not overlap."""
    elsewhere = None not in {whole.node, part.node} and whole.node != part.node
    return part.kind in whole.covers and part.backend != whole.backend and not elsewhere

"""Find devices whose energy another device's figure contains."""

from collections.abc import Sequence

from ml_energy_callbacks.readings import Device


def counted_twice(devices: Sequence[Device]) -> dict[str, str]:
    """Return the devices whose energy another device's figure holds, and the models of what is measured."""
    parts = [device for device in devices if not device.whole_machine]
    inside = {
        device.id: other.id
        for i, device in enumerate(parts)
        for j, other in enumerate(parts)
        if _holds(other, device) and not (i < j and _holds(device, other))  # of two that hold each other, the first
    }
    counted = [device for device in parts if device.method != "model" and device.id not in inside]
    told = {kind for device in counted for kind in (device.kind, *device.covers)}
    models = [device.id for device in parts if device.method == "model" and device.kind in told]
    return {name: f"{name} is inside the figure of {other}." for name, other in inside.items()} | dict.fromkeys(models, "")


def _holds(whole: Device, part: Device) -> bool:
    """Return whether a device's figure holds another's energy; where both say on which node they are, it has to be one."""
    elsewhere = None not in {whole.node, part.node} and whole.node != part.node
    return part.kind in whole.covers and part.backend != whole.backend and not elsewhere

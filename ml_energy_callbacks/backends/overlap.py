"""Find devices whose energy is included in another device's figure."""

from collections.abc import Collection, Sequence

from ml_energy_callbacks.readings import Device, Kind


def counted_twice(devices: Sequence[Device]) -> dict[str, str]:
    """Return the devices that another device's figure includes, with the reasons, and the power models that are not needed."""
    parts = [device for device in devices if not device.whole_machine]
    measured = [device for device in parts if device.method != "model"]
    models = [device for device in parts if device.method == "model"]
    included = _find_included(measured)
    counted = [device for device in measured if device.id not in included]
    measured_kinds = {kind for device in counted for kind in (device.kind, *device.covers)}
    replaced = [device.id for device in models if device.kind in measured_kinds]
    # A model includes other models only: it leaves out what is measured.
    replaced += _find_included([device for device in models if device.id not in replaced])
    return {name: f"{name} is included in the figure of {other}." for name, other in included.items()} | dict.fromkeys(
        replaced, ""
    )


def measured_apart(devices: Sequence[Device], model: Device) -> Collection[Kind]:
    """Return the kinds that a model covers and that other devices, which are counted, measure."""
    measured = [device for device in devices if device.method != "model" and not device.whole_machine]
    return {kind for device in measured for kind in (device.kind, *device.covers)}.intersection(model.covers)


def _find_included(devices: Sequence[Device]) -> dict[str, str]:
    """Return the devices that another one's figure includes, with that other one."""
    return {
        device.id: other.id
        for i, device in enumerate(devices)
        for j, other in enumerate(devices)
        if _includes(other, device)
        and not (i < j and _includes(device, other))  # of two that include each other, the first counts
    }


def _includes(whole: Device, part: Device) -> bool:
    """Return whether a device's figure includes another's energy; devices on different known nodes do not overlap."""
    elsewhere = None not in {whole.node, part.node} and whole.node != part.node
    return part.kind in whole.covers and part.backend != whole.backend and not elsewhere

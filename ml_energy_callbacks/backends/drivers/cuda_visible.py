"""The GPUs that ``CUDA_VISIBLE_DEVICES`` selects, by CUDA's rules.

A GPU is given by its UUIDs: its own (``GPU-...``) first, then those of its MIG slices (``MIG-...``).
"""

import re
from collections.abc import Collection, Sequence

_PREFIXES = ("GPU-", "MIG-")


def is_in_bus_order(order: str | None, names: Collection[str]) -> bool:
    """Return whether CUDA numbers the GPUs in the order of the PCI bus.

    CUDA's default order, the fastest GPU first, is the order of the bus if all GPUs are alike.

    Args:
        order: ``CUDA_DEVICE_ORDER``; None if it is not set.
        names: The GPUs' product names.
    """
    return order == "PCI_BUS_ID" or len(set(names)) == 1


def selects_by_number(text: str) -> bool:
    """Return whether a value of ``CUDA_VISIBLE_DEVICES`` selects GPUs by number, so that their order matters."""
    return re.match(r"\s*\+?\d", text) is not None


def hides_all(text: str) -> bool:
    """Return whether a value of ``CUDA_VISIBLE_DEVICES`` hides all GPUs of any machine."""
    return not selects_by_number(text) and not text.strip().startswith(_PREFIXES)


def select_visible(text: str, gpus: Sequence[Sequence[str]]) -> Sequence[int]:
    """Return the GPUs that a value of ``CUDA_VISIBLE_DEVICES`` selects, in its order.

    An entry that matches no GPU, or has another form than the first, ends the list, and a repeated entry empties it: CUDA
    Programming Guide, "Environment variables", and PyTorch's ``torch.cuda._parse_visible_devices``.

    Args:
        text: The value.
        gpus: The UUIDs of each GPU, in the order in which CUDA numbers them.

    Returns:
        Indices of ``gpus``.
    """
    entries = [entry.strip() for entry in text.split(",")]
    prefix = next((prefix for prefix in _PREFIXES if entries[0].startswith(prefix)), "")
    indices: list[int] = []
    seen: set[object] = set()
    for entry in entries:
        if prefix:
            matching = [i for i, uuids in enumerate(gpus) if matches_gpu(entry, uuids)] if entry.startswith(prefix) else []
        else:
            digits = re.match(r"\+?(\d+)", entry)  # CUDA parses "1x" as 1, as strtoul does
            matching = list(range(len(gpus))[int(digits[1]) :][:1]) if digits else []
        if len(matching) != 1:
            break
        (index,) = matching
        key = entry if prefix == "MIG-" else index  # two slices may be on one GPU
        if key in seen:
            return ()
        seen.add(key)
        if index not in indices:
            indices.append(index)
    return indices


def matches_gpu(entry: str, uuids: Sequence[str]) -> bool:
    """Return whether an entry that begins with ``GPU-`` or ``MIG-`` matches this GPU or one of its slices.

    Args:
        entry: A UUID or the beginning of one.
        uuids: The UUIDs of the GPU and its slices.
    """
    if entry.startswith("MIG-GPU-"):  # up to driver 460: MIG-GPU-<uuid>/<GPU instance>/<compute instance>
        return uuids[0] == entry.removeprefix("MIG-").partition("/")[0]
    return any(uuid.startswith(entry) for uuid in uuids)

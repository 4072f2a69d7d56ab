"""Which GPUs ``CUDA_VISIBLE_DEVICES`` shows, by CUDA's rules.

A GPU is the UUIDs that it goes by: its own (``GPU-...``) first, then those of its MIG slices (``MIG-...``).
"""

import re
from collections.abc import Collection, Sequence

_PREFIXES = ("GPU-", "MIG-")


def in_bus_order(order: str | None, names: Collection[str]) -> bool:
    """Return whether CUDA numbers the GPUs in the order of the PCI bus.

    CUDA's own order, the fastest first, is the bus's where all are alike.

    Args:
        order: ``CUDA_DEVICE_ORDER``; None where it is not set.
        names: The GPUs' product names.
    """
    return order == "PCI_BUS_ID" or len(set(names)) == 1


def says_numbers(text: str) -> bool:
    """Return whether a value of ``CUDA_VISIBLE_DEVICES`` names GPUs by their numbers, so that their order counts."""
    return re.match(r"\s*\+?\d", text) is not None


def shows_none(text: str) -> bool:
    """Return whether a value of ``CUDA_VISIBLE_DEVICES`` hides every GPU, whatever GPUs there are."""
    return not says_numbers(text) and not text.strip().startswith(_PREFIXES)


def shown(text: str, gpus: Sequence[Sequence[str]]) -> Sequence[int]:
    """Return which GPUs a value of ``CUDA_VISIBLE_DEVICES`` shows, in its order.

    An entry that means no GPU, or of another form than the first, ends the list, and one that comes twice empties it: CUDA
    Programming Guide, "Environment variables", and what PyTorch's ``torch.cuda._parse_visible_devices`` found out.

    Args:
        text: The value.
        gpus: The UUIDs of each GPU, in the order that CUDA numbers them.

    Returns:
        Indices of ``gpus``.
    """
    entries = [entry.strip() for entry in text.split(",")]
    prefix = next((prefix for prefix in _PREFIXES if entries[0].startswith(prefix)), "")
    indices: list[int] = []
    taken: set[object] = set()
    for entry in entries:
        if prefix:
            meant = [i for i, uuids in enumerate(gpus) if fits(entry, uuids)] if entry.startswith(prefix) else []
        else:
            digits = re.match(r"\+?(\d+)", entry)  # "1x" is 1: CUDA reads it as strtoul does
            meant = list(range(len(gpus))[int(digits[1]) :][:1]) if digits else []
        if len(meant) != 1:
            break
        (index,) = meant
        key = entry if prefix == "MIG-" else index  # two slices may be on one GPU
        if key in taken:
            return ()
        taken.add(key)
        if index not in indices:
            indices.append(index)
    return indices


def fits(entry: str, uuids: Sequence[str]) -> bool:
    """Return whether an entry that begins with ``GPU-`` or ``MIG-`` means this GPU or one of its slices.

    Args:
        entry: A UUID or the beginning of one.
        uuids: The GPU's.
    """
    if entry.startswith("MIG-GPU-"):  # up to driver 460: MIG-GPU-<uuid>/<GPU instance>/<compute instance>
        return uuids[0] == entry.removeprefix("MIG-").partition("/")[0]
    return any(uuid.startswith(entry) for uuid in uuids)

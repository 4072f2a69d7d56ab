"""AMD GPUs in ROCm's numbering, and those that the environment selects; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

APUS = frozenset(
    f"gfx{name}" for name in ("902", "909", "90c", "1013", "1033", "1035", "1036", "1103", "1150", "1151", "1152", "1153")
)
"""Processors with graphics, "APU" in LLVM's "User Guide for AMDGPU Backend": their power is that of the whole package."""


@dataclass(frozen=True, slots=True)
class Node:
    """A GPU among ROCm's nodes.

    Attributes:
        address: PCI address, domain:bus:device.function.
        number: Its number, which rises in the order in which ROCm and HIP number the GPUs.
        uuid: ROCm's name of it, ``GPU-<16 hex digits>``.
        apu: Whether it is part of a processor.
    """

    address: str
    number: int
    uuid: str
    apu: bool


def parse_node(number: str, properties: str) -> Node | None:
    """Return the GPU of a node, or None if the node is not a GPU or cannot be parsed.

    Args:
        number: The node's number.
        properties: Content of its file ``properties``: a name and a number in each line.
    """
    try:
        words = {name: int(value) for name, value in (line.split() for line in properties.splitlines())}
        if not words["simd_count"]:
            return None
        # Older kernels have one node for both halves of an APU, without its graphics version.
        apu = words["cpu_cores_count"] > 0 or _graphics(words.get("gfx_target_version", 0)) in APUS
        at = words["location_id"]
        address = f"{words['domain']:04x}:{at >> 8 & 0xFF:02x}:{at >> 3 & 0x1F:02x}.{at & 7:x}"
        return Node(address, int(number), f"GPU-{words['unique_id']:016x}", apu)
    except (KeyError, ValueError):
        return None


def _graphics(version: int) -> str:
    """Return LLVM's name of a graphics version in the form of Linux's kfd_device.c: 90012 is gfx90c."""
    return f"gfx{version // 10_000}{version // 100 % 100:x}{version % 100:x}"


def selects_gpus(environ: Mapping[str, str]) -> bool:
    """Return whether the environment selects GPUs."""
    return _read_variables(environ) != (None, None)


def hides_all(environ: Mapping[str, str]) -> bool:
    """Return whether a variable is empty, which hides all GPUs."""
    return "" in _read_variables(environ)


def select_visible(environ: Mapping[str, str], uuids: Sequence[str]) -> Sequence[int]:
    """Return the selected GPUs, as indices of ``uuids``, in HIP's order.

    Args:
        environ: The environment.
        uuids: ROCm's names of the GPUs, ``GPU-<16 hex digits>``, in ROCm's order.
    """
    rocm, hip = _read_variables(environ)
    indices: Sequence[int] = range(len(uuids))
    if rocm is not None:
        indices = _apply_rocm_rules(rocm, indices, uuids)
    if hip is not None:
        indices = _apply_hip_rules(hip, indices, uuids)
    return indices


def _read_variables(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    return environ.get("ROCR_VISIBLE_DEVICES"), environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES"))


def _apply_rocm_rules(text: str, indices: Sequence[int], uuids: Sequence[str]) -> Sequence[int]:
    """Apply ROCR-Runtime's rules (amd_filter_device.cpp): an invalid or repeated entry ends the list."""
    found: list[int] = []
    for entry in text.split(","):
        index = _match_entry(entry.strip(), indices, uuids)
        if index is None or index in found:
            break
        found.append(index)
    return found


def _apply_hip_rules(text: str, indices: Sequence[int], uuids: Sequence[str]) -> Sequence[int]:
    """Apply HIP's rules (rocdevice.cpp): an invalid entry ends the list, and a space makes an entry invalid."""
    found: list[int] = []
    for entry in text.split(","):
        index = _match_entry(entry, indices, uuids)
        if index is None:
            break
        found.append(index)
    return found


def _match_entry(entry: str, indices: Sequence[int], uuids: Sequence[str]) -> int | None:
    """Return the remaining GPU that an entry selects, by its number or by the beginning of its UUID; None if invalid."""
    if entry.isdecimal():
        return indices[int(entry)] if int(entry) < len(indices) else None
    if not entry.upper().startswith("GPU-"):
        return None
    matching = [index for index in indices if uuids[index].upper().startswith(entry.upper())]
    return matching[0] if len(matching) == 1 else None

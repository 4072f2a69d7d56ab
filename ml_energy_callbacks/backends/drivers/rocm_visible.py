"""AMD GPUs as ROCm knows them, and which of them the environment shows; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

APUS = frozenset(
    f"gfx{name}" for name in ("902", "909", "90c", "1013", "1033", "1035", "1036", "1103", "1150", "1151", "1152", "1153")
)
"""Processors with graphics, "APU" in LLVM's "User Guide for AMDGPU Backend": their power is the whole package's."""


@dataclass(frozen=True, slots=True)
class Node:
    """A GPU among ROCm's nodes.

    Attributes:
        place: PCI domain:bus:device.function.
        number: Its number: ROCm and HIP count the GPUs in this order.
        uuid: The name that ROCm knows it by, ``GPU-<16 hex digits>``.
        apu: Whether it is inside a processor.
    """

    place: str
    number: int
    uuid: str
    apu: bool


def parse_node(number: str, properties: str) -> Node | None:
    """Return the GPU that a node is, or None where it is none, or where that cannot be told.

    Args:
        number: The node's number.
        properties: What its file ``properties`` holds: a name and a number in each line.
    """
    try:
        words = {name: int(value) for name, value in (line.split() for line in properties.splitlines())}
        if not words["simd_count"]:
            return None
        # Older kernels put both halves of an APU into one node, and do not tell its graphics version.
        apu = words["cpu_cores_count"] > 0 or _graphics(words.get("gfx_target_version", 0)) in APUS
        at = words["location_id"]
        place = f"{words['domain']:04x}:{at >> 8 & 0xFF:02x}:{at >> 3 & 0x1F:02x}.{at & 7:x}"
        return Node(place, int(number), f"GPU-{words['unique_id']:016x}", apu)
    except (KeyError, ValueError):
        return None


def _graphics(version: int) -> str:
    """Return LLVM's name of a graphics version as Linux's kfd_device.c writes it: 90012 is gfx90c."""
    return f"gfx{version // 10_000}{version // 100 % 100:x}{version % 100:x}"


def restricted(environ: Mapping[str, str]) -> bool:
    """Return whether the environment chooses among the GPUs at all."""
    return _choices(environ) != (None, None)


def none_shown(environ: Mapping[str, str]) -> bool:
    """Return whether a variable is empty, which hides every GPU, whatever their order."""
    return "" in _choices(environ)


def shown(environ: Mapping[str, str], uuids: Sequence[str]) -> Sequence[int]:
    """Return which GPUs are shown, by their places in ``uuids``, in HIP's order.

    Args:
        environ: The environment.
        uuids: The names that ROCm knows the GPUs by, ``GPU-<16 hex digits>``, in ROCm's order.
    """
    rocm, hip = _choices(environ)
    places: Sequence[int] = range(len(uuids))
    if rocm is not None:
        places = _shown_by_rocm(rocm, places, uuids)
    if hip is not None:
        places = _shown_by_hip(hip, places, uuids)
    return places


def _choices(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    return environ.get("ROCR_VISIBLE_DEVICES"), environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES"))


def _shown_by_rocm(text: str, places: Sequence[int], uuids: Sequence[str]) -> Sequence[int]:
    """Follow ROCR-Runtime, amd_filter_device.cpp: an invalid entry, or one said before, ends the list."""
    found: list[int] = []
    for entry in text.split(","):
        place = _named(entry.strip(), places, uuids)
        if place is None or place in found:
            break
        found.append(place)
    return found


def _shown_by_hip(text: str, places: Sequence[int], uuids: Sequence[str]) -> Sequence[int]:
    """Follow HIP, rocdevice.cpp: an invalid entry ends the list, and a space makes one invalid."""
    found: list[int] = []
    for entry in text.split(","):
        place = _named(entry, places, uuids)
        if place is None:
            break
        found.append(place)
    return found


def _named(entry: str, places: Sequence[int], uuids: Sequence[str]) -> int | None:
    """Return the GPU of this number among those that are left, or the one of them whose UUID begins so."""
    if entry.isdecimal():
        return places[int(entry)] if int(entry) < len(places) else None
    if not entry.upper().startswith("GPU-"):
        return None
    fits = [place for place in places if uuids[place].upper().startswith(entry.upper())]
    return fits[0] if len(fits) == 1 else None

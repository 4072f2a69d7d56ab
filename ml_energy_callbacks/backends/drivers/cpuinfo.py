"""The processors of this machine, as Linux describes them in ``/proc/cpuinfo``; a virtual machine sees those of its host."""

import os
import platform
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Processors:
    """The processors of this machine.

    Attributes:
        name: Their name, which a host may hide.
        vendor: The maker's name as CPUID has it, such as ``AuthenticAMD``; empty where there is none, as on Arm.
        family: CPUID's family; -1 where there is none.
        model: CPUID's model, which with the family identifies the microarchitecture; -1 where there is none.
        stepping: CPUID's stepping; -1 where there is none.
        threads: Number of hardware threads.
        sockets: Number of processors.
        virtual: Whether this machine is a guest.
    """

    name: str
    vendor: str
    family: int
    model: int
    stepping: int
    threads: int
    sockets: int
    virtual: bool


def parse_cpuinfo(text: str) -> Processors:
    """Return the processors that the text of ``/proc/cpuinfo`` describes; an empty text is that of an unknown machine."""
    return Processors(
        name=_read_field(text, "model name") or platform.machine() or "unknown processor",
        vendor=_read_field(text, "vendor_id") or "",
        family=_read_number(text, "cpu family"),
        model=_read_number(text, "model"),
        stepping=_read_number(text, "stepping"),
        threads=len(re.findall(r"^processor\s*:", text, re.MULTILINE)) or os.cpu_count() or 1,
        sockets=len(set(re.findall(r"^physical id\s*:\s*(\d+)", text, re.MULTILINE))) or 1,
        virtual="hypervisor" in (_read_field(text, "flags") or "").split(),
    )


def _read_number(text: str, key: str) -> int:
    value = _read_field(text, key) or ""
    return int(value) if value.isdecimal() else -1


def _read_field(text: str, key: str) -> str | None:
    found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None

"""Find the devices of this machine that can be measured."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from typing import Literal, get_args

from ml_energy_callbacks.backends.amd import AmdBackend
from ml_energy_callbacks.backends.apple import AppleBackend
from ml_energy_callbacks.backends.arm_power import ArmPowerBackend
from ml_energy_callbacks.backends.battery import BatteryBackend
from ml_energy_callbacks.backends.cpu_model import CpuModelBackend, find_tdp
from ml_energy_callbacks.backends.intel_gpu import IntelGpuBackend
from ml_energy_callbacks.backends.jetson import JetsonBackend
from ml_energy_callbacks.backends.memory_model import MemoryModelBackend
from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.backends.overlap import counted_twice, measured_apart
from ml_energy_callbacks.backends.plug import PlugBackend
from ml_energy_callbacks.backends.rapl import RaplBackend
from ml_energy_callbacks.backends.tpu import TpuBackend
from ml_energy_callbacks.backends.trust import check_sources
from ml_energy_callbacks.clock import REAL_TIME, Timing
from ml_energy_callbacks.deadline.calls import LateError, ThreadError, close, in_background, within
from ml_energy_callbacks.exceptions import BackendUnavailableError, ConfigurationError
from ml_energy_callbacks.readings import Backend, Device, InclusiveSource, Kind, Source
from ml_energy_callbacks.safe_text import describe

ENTRY_POINTS = "ml_energy_callbacks.backends"
"""Entry-point group in which other packages register backends: each is called without arguments and returns a backend."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """The devices that were found, and the reasons for those that were not.

    Attributes:
        sources: The open devices: those that are counted, and the whole-machine meters that are reported separately.
        unavailable: Why a backend found no device, by the backend's name.
        refused: Why a device that was found is rejected by the checks, by its id, in a sentence.
        left_out: Why a working device is not counted, by its id: another device's figure includes it, or the job does not use
            it.
        place: Where they were looked for.
    """

    sources: Sequence[Source]
    unavailable: Mapping[str, BackendUnavailableError]
    refused: Mapping[str, str]
    left_out: Mapping[str, str]
    place: str = "on this machine"


def default_backends() -> Sequence[Backend]:
    """Return all backends of this package, and those that other packages register."""
    return (
        NvmlBackend(),
        AmdBackend(),
        IntelGpuBackend(),
        JetsonBackend(),
        AppleBackend(),
        TpuBackend(),
        RaplBackend(find_tdp=find_tdp),
        ArmPowerBackend(),
        BatteryBackend(),
        PlugBackend(),
        CpuModelBackend(),
        MemoryModelBackend(),
        *_load_third_party_backends(),
    )


def _load_third_party_backends() -> Iterator[Backend]:
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            yield entry.load()()
        except Exception as error:  # noqa: BLE001 - third-party code may raise anything; the other backends still work
            yield _BrokenBackend(entry.name, f"The backend {entry.name} of {entry.value} cannot be loaded: {error!r}.")


@dataclass(frozen=True, slots=True)
class _BrokenBackend:
    """A third-party backend that could not be created."""

    name: str
    reason: str

    def open(self) -> Sequence[Source]:
        raise BackendUnavailableError(self.reason, "Update or remove the package that provides it.", present=True)


def check_devices(devices: object) -> None:
    """Reject an invalid value of the option ``devices``.

    Raises:
        ConfigurationError: It is neither ``"auto"`` nor a list of ids.
    """
    if isinstance(devices, str) and devices == "auto":
        return
    if (
        not isinstance(devices, Collection)
        or isinstance(devices, str)
        or not devices
        or not all(isinstance(device, str) for device in devices)
    ):
        msg = f"devices is {describe(devices)}; give 'auto' or a list of ids or globs such as ['nvml:*', 'rapl:package-0']."
        raise ConfigurationError(msg)


def discover(
    devices: Literal["auto"] | Sequence[str] = "auto",
    *,
    backends: Sequence[Backend] | None = None,
    gpus: Collection[str] | None = None,
    timing: Timing = REAL_TIME,
) -> Discovery:
    """Open the devices of this machine that pass the checks.

    No joule is counted twice: a power model is used only if no selected device reports the energy of its kind, and a device
    whose energy is included in another selected device's figure is left out.

    Args:
        devices: ``"auto"`` for all, or ids and globs.
        backends: The backends to search; None for all known ones.
        gpus: The GPUs that the job runs on, to which ``"auto"`` is limited: their UUIDs, or ``"cuda:<n>"`` by CUDA's numbers in
            this process; empty if the job runs on no GPU; None for all that the process can use.
        timing: The clock, and the time limits of backends and devices.

    Raises:
        ConfigurationError: An id or a glob matches no device, or a setting of a backend is invalid.
        ThreadError: No thread can be started to open a backend.
    """
    found: list[Source] = []
    unavailable: dict[str, BackendUnavailableError] = {}
    try:
        for name, backend in _select_backends(devices, default_backends() if backends is None else backends):
            try:
                _add_new_sources(_open_backend(name, backend, timing.open_s), found)
            except BackendUnavailableError as error:
                # Its traceback would keep the callers' objects alive, such as a trainer with its model.
                error.__context__ = None
                unavailable[name] = error.with_traceback(None)
            except (ConfigurationError, ThreadError):
                raise
            except Exception as error:  # noqa: BLE001 - third-party code may raise anything; the other backends still work
                unavailable[name] = BackendUnavailableError(f"The backend {name} failed: {error!r}.", present=True)
        left_out = _find_unused_gpus(found, gpus) if devices == "auto" else _find_unselected(found, devices, unavailable)
    except (ConfigurationError, ThreadError):
        close(found)
        raise
    verdict = check_sources([source for source in found if source.device.id not in left_out], timing)
    left_out |= counted_twice([source.device for source in verdict.sources])
    close(source for source in found if source.device.id in left_out)
    sources = [source for source in verdict.sources if source.device.id not in left_out]
    counted = [source.device for source in sources]
    for source in sources:
        if isinstance(source, InclusiveSource) and (kinds := measured_apart(counted, source.device)):
            source.exclude(kinds)
    return Discovery(
        sources,
        unavailable,
        verdict.refused,
        {name: reason for name, reason in left_out.items() if reason},
    )


def _select_backends(devices: Literal["auto"] | Sequence[str], backends: Sequence[Backend]) -> Sequence[tuple[str, Backend]]:
    """Return the backends, with their names, that may provide the selected devices; all if one of these matches no backend."""
    named = [(getattr(backend, "name", type(backend).__name__), backend) for backend in backends]
    if devices == "auto":
        return named
    matching = {pattern: [pair for pair in named if fnmatchcase(pair[0], pattern.partition(":")[0])] for pattern in devices}
    return [pair for pair in named if any(pair in pairs for pairs in matching.values())] if all(matching.values()) else named


_hung_openings: dict[str, Future[Sequence[Source]]] = {}
"""Backends that did not open in time, by name: while the attempt still runs, no other one is started."""


def _open_backend(name: str, backend: Backend, longest_s: float) -> Sequence[Source]:
    opening = _hung_openings.get(name)
    seconds = 0.0
    if opening is None or opening.done():
        opening, seconds = in_background(backend.open), longest_s
    try:
        return within(seconds, opening)
    except LateError:
        _hung_openings[name] = opening
        msg = f"The backend {name} did not answer within {longest_s:g} s."
        fix = "Check `sudo dmesg` for messages of its driver, or select other devices, such as devices=['rapl:*']."
        raise BackendUnavailableError(msg, fix, present=True) from None


def _add_new_sources(opened: Sequence[Source], found: list[Source]) -> None:
    """Add the sources whose id is new to ``found``, and close the others: a backend may have been given twice."""
    kinds = get_args(Kind)
    for source in opened:
        if source.device.kind not in kinds:
            msg = f"the kind of {source.device.id} is {source.device.kind!r}, not one of {', '.join(kinds)}"
            raise ValueError(msg)
    for source in opened:
        if any(source.device.id == other.device.id for other in found):
            close([source])
        else:
            found.append(source)


def _find_unselected(
    found: Sequence[Source], patterns: Sequence[str], unavailable: Mapping[str, BackendUnavailableError]
) -> dict[str, str]:
    """Return the ids of the devices that the user did not select, each with an empty reason."""
    ids = [source.device.id for source in found]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in ids):
            reasons = "".join(f" {name}: {error}" for name, error in unavailable.items())
            msg = f"No device matches {pattern!r}; available: {', '.join(ids) or 'none'}.{reasons}"
            raise ConfigurationError(msg)
    return {name: "" for name in ids if not any(fnmatchcase(name, pattern) for pattern in patterns)}


def _find_unused_gpus(found: Sequence[Source], gpus: Collection[str] | None) -> dict[str, str]:
    """Return the GPUs that the job does not run on; none of them if no GPU of the job is found, so that all are counted."""
    if gpus is None:
        return {}
    devices = [source.device for source in found if source.device.kind == "gpu" and source.device.provenance == "measured"]
    own = {device.id for device in devices if any(_is_gpu(device, gpu) for gpu in gpus)}
    if gpus and not own:
        return {}
    return {device.id: f"The trainer does not use {device.id}." for device in devices if device.id not in own}


def unread_gpus(devices: Sequence[Device], gpus: Collection[str]) -> Sequence[str]:
    """Return the GPUs of the job that are not among the devices; none of them if not a single one is recognised."""
    known = [gpu for gpu in gpus if any(_is_gpu(device, gpu) for device in devices)]
    return [gpu for gpu in gpus if gpu not in known] if known else []


def _is_gpu(device: Device, gpu: str) -> bool:
    """Return whether a device is the GPU with this UUID or CUDA number."""
    return gpu == f"cuda:{device.cuda}" or gpu.lower() in device.id.lower()

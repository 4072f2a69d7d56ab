"""Search this machine for devices that can be measured."""

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
from ml_energy_callbacks.backends.cpu_model import CpuModelBackend
from ml_energy_callbacks.backends.intel_gpu import IntelGpuBackend
from ml_energy_callbacks.backends.jetson import JetsonBackend
from ml_energy_callbacks.backends.memory_model import MemoryModelBackend
from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.backends.overlap import counted_twice
from ml_energy_callbacks.backends.plug import PlugBackend
from ml_energy_callbacks.backends.rapl import RaplBackend
from ml_energy_callbacks.backends.tpu import TpuBackend
from ml_energy_callbacks.backends.trust import verify
from ml_energy_callbacks.clock import REAL_TIME, Timing
from ml_energy_callbacks.deadline import LateError, close, in_background, within
from ml_energy_callbacks.exceptions import BackendUnavailableError, ConfigurationError
from ml_energy_callbacks.readings import Backend, Device, Kind, Source

ENTRY_POINTS = "ml_energy_callbacks.backends"
"""Group of entry points by which other packages bring backends: each is called without arguments and returns one."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found.

    Attributes:
        sources: The open devices, those that are counted and those that are reported beside them.
        unavailable: Why a backend found nothing, by its name.
        refused: Why a device that was found cannot be trusted, by its id, in a sentence.
        left_out: Why one that can is not counted: another's figure holds it, or the job does not use it.
    """

    sources: Sequence[Source]
    unavailable: Mapping[str, BackendUnavailableError]
    refused: Mapping[str, str]
    left_out: Mapping[str, str]


def default_backends() -> Sequence[Backend]:
    """Return all that this package knows, and those that other packages bring."""
    return (
        NvmlBackend(),
        AmdBackend(),
        IntelGpuBackend(),
        JetsonBackend(),
        AppleBackend(),
        TpuBackend(),
        RaplBackend(),
        ArmPowerBackend(),
        BatteryBackend(),
        PlugBackend(),
        CpuModelBackend(),
        MemoryModelBackend(),
        *_foreign(),
    )


def _foreign() -> Iterator[Backend]:
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            yield entry.load()()
        except Exception as error:  # noqa: BLE001 - a third party's code may raise anything; the others serve
            yield _Broken(entry.name, f"The backend {entry.name} of {entry.value} cannot be loaded: {error!r}.")


@dataclass(frozen=True, slots=True)
class _Broken:
    """A third party's backend that could not even be made."""

    name: str
    reason: str

    def open(self) -> Sequence[Source]:
        raise BackendUnavailableError(self.reason, "Update or remove the package that brings it.", present=True)


def check_devices(devices: Literal["auto"] | Sequence[str]) -> None:
    """Refuse a choice of devices that cannot be one.

    Raises:
        ConfigurationError: It is neither ``"auto"`` nor a list of ids.
    """
    if devices == "auto":
        return
    if isinstance(devices, str) or not devices or not all(isinstance(device, str) for device in devices):
        msg = f"devices is {devices!r}; give 'auto' or a list of ids or globs such as ['nvml:*', 'rapl:package-0']."
        raise ConfigurationError(msg)


def discover(
    devices: Literal["auto"] | Sequence[str] = "auto",
    *,
    backends: Sequence[Backend] | None = None,
    gpus: Collection[str] | None = None,
    timing: Timing = REAL_TIME,
) -> Discovery:
    """Open the devices of this machine that can be trusted.

    No joule counts twice: a model is taken only where no chosen device tells the energy of its kind, and what is inside
    another chosen device's figure is left out.

    Args:
        devices: ``"auto"`` for all, or ids and globs.
        backends: Where to look; None for all that are known.
        gpus: The GPUs that the job runs on, which ``"auto"`` goes by: their UUIDs, or ``"cuda:<n>"`` by CUDA's numbers in this
            process; none where it runs on no GPU; None for all that the process can use.
        timing: Clock, and how long backends and devices are waited for.

    Raises:
        ConfigurationError: An id or a glob fits no device here, or a setting of a backend cannot work.
    """
    found: list[Source] = []
    unavailable: dict[str, BackendUnavailableError] = {}
    try:
        for name, backend in _asked(devices, default_backends() if backends is None else backends):
            try:
                _take(_open(name, backend, timing.open_s), found)
            except BackendUnavailableError as error:
                # Its traceback would keep alive what the callers hold, such as a trainer with its model.
                error.__context__ = None
                unavailable[name] = error.with_traceback(None)
            except ConfigurationError:
                raise
            except Exception as error:  # noqa: BLE001 - a third party's backend may raise anything; the others serve
                unavailable[name] = BackendUnavailableError(f"The backend {name} failed: {error!r}.", present=True)
        left_out = _unused(found, gpus) if devices == "auto" else _unchosen(found, devices, unavailable)
    except ConfigurationError:
        close(found)
        raise
    verdict = verify([source for source in found if source.device.id not in left_out], timing)
    left_out |= counted_twice([source.device for source in verdict.sources])
    close(source for source in found if source.device.id in left_out)
    return Discovery(
        [source for source in verdict.sources if source.device.id not in left_out],
        unavailable,
        verdict.refused,
        {name: reason for name, reason in left_out.items() if reason},
    )


def _asked(devices: Literal["auto"] | Sequence[str], backends: Sequence[Backend]) -> Sequence[tuple[str, Backend]]:
    """Return the backends, by their names, that may have the chosen devices; all where one of these is nobody's."""
    named = [(getattr(backend, "name", type(backend).__name__), backend) for backend in backends]
    if devices == "auto":
        return named
    asked = {pattern: [pair for pair in named if fnmatchcase(pair[0], pattern.partition(":")[0])] for pattern in devices}
    return [pair for pair in named if any(pair in pairs for pairs in asked.values())] if all(asked.values()) else named


_hung: dict[str, Future[Sequence[Source]]] = {}
"""Backends that did not open in time, by their names: while one still tries, it is not asked again."""


def _open(name: str, backend: Backend, longest_s: float) -> Sequence[Source]:
    opening = _hung.get(name)
    seconds = 0.0
    if opening is None or opening.done():
        opening, seconds = in_background(backend.open), longest_s
    try:
        return within(seconds, opening)
    except LateError:
        _hung[name] = opening
        msg = f"The backend {name} did not answer within {longest_s:g} s."
        fix = "See what `sudo dmesg` says of its driver, or name the devices to be measured, such as devices=['rapl:*']."
        raise BackendUnavailableError(msg, fix, present=True) from None


def _take(opened: Sequence[Source], found: list[Source]) -> None:
    """Add the sources to those found, but for those whose id is there already: a backend may have been given twice."""
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


def _unchosen(
    found: Sequence[Source], patterns: Sequence[str], unavailable: Mapping[str, BackendUnavailableError]
) -> dict[str, str]:
    """Return the devices that the user did not choose; no reason need be given for these."""
    ids = [source.device.id for source in found]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in ids):
            reasons = "".join(f" {name}: {error}" for name, error in unavailable.items())
            msg = f"There is no device {pattern!r} here; there are: {', '.join(ids) or 'none'}.{reasons}"
            raise ConfigurationError(msg)
    return {name: "" for name in ids if not any(fnmatchcase(name, pattern) for pattern in patterns)}


def _unused(found: Sequence[Source], gpus: Collection[str] | None) -> dict[str, str]:
    """Return the GPUs that the job does not run on; all are counted where it runs on some, and none of these is found."""
    if gpus is None:
        return {}
    devices = [source.device for source in found if source.device.kind == "gpu" and source.device.provenance == "measured"]
    own = {device.id for device in devices if any(_is(device, gpu) for gpu in gpus)}
    if gpus and not own:
        return {}
    return {device.id: f"The trainer does not use {device.id}." for device in devices if device.id not in own}


def _is(device: Device, gpu: str) -> bool:
    """Return whether this is the GPU that goes by a UUID, or by a number of CUDA's."""
    return gpu == f"cuda:{device.cuda}" or gpu.lower() in device.id.lower()

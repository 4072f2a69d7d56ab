"""Every kind of hardware that can be read, and the search for what this machine has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from ml_energy_callbacks.backends.cpu_model import CpuModelBackend
from ml_energy_callbacks.backends.memory_model import MemoryModelBackend
from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.backends.rapl import RaplBackend
from ml_energy_callbacks.exceptions import BackendUnavailableError, ConfigurationError
from ml_energy_callbacks.readings import Backend, Source


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found.

    Attributes:
        sources: The open devices.
        unavailable: Why a backend found nothing, by its name.
    """

    sources: Sequence[Source]
    unavailable: Mapping[str, BackendUnavailableError]


def default_backends() -> Sequence[Backend]:
    """Return all that this package knows."""
    return (NvmlBackend(), RaplBackend(), CpuModelBackend(), MemoryModelBackend())


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


def discover(devices: Literal["auto"] | Sequence[str] = "auto", *, backends: Sequence[Backend] | None = None) -> Discovery:
    """Open the devices of this machine.

    A model is taken only where no chosen device measures its kind, so that no joule counts twice.

    Args:
        devices: ``"auto"`` for all, or ids and globs.
        backends: Where to look; None for all that this package knows.

    Raises:
        ConfigurationError: An id or a glob fits no device here.
    """
    found: list[Source] = []
    unavailable: dict[str, BackendUnavailableError] = {}
    for backend in default_backends() if backends is None else backends:
        try:
            found += backend.open()
        except BackendUnavailableError as error:
            unavailable[backend.name] = error
        except Exception as error:  # noqa: BLE001 - a third party's backend may raise anything; the others serve
            unavailable[backend.name] = BackendUnavailableError(f"The backend {backend.name} failed: {error!r}.")
    patterns = ["*"] if devices == "auto" else devices
    ids = [source.device.id for source in found]
    for pattern in patterns:
        if devices != "auto" and not any(fnmatchcase(name, pattern) for name in ids):
            for source in found:
                source.close()
            reasons = "".join(f" {name}: {error}" for name, error in unavailable.items())
            msg = f"There is no device {pattern!r} here; there are: {', '.join(ids) or 'none'}.{reasons}"
            raise ConfigurationError(msg)
    chosen = [source for source in found if any(fnmatchcase(source.device.id, pattern) for pattern in patterns)]
    measured = {source.device.kind for source in chosen if source.device.provenance == "measured"}
    kept = [s for s in chosen if s.device.provenance == "measured" or s.device.kind not in measured]
    for source in found:
        if source not in kept:
            source.close()
    return Discovery(kept, unavailable)

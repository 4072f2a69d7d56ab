"""What the peers ask of NVIDIA's driver and the simulated one does not know; a real driver answers all of it."""

from types import SimpleNamespace

import pynvml


def _unsupported(*_: object) -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


_ANSWERS = {
    "nvmlDeviceGetArchitecture": pynvml.NVML_DEVICE_ARCH_AMPERE,
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 << 30, free=79 << 30, used=1 << 30),
    "nvmlDeviceGetTemperature": 40,
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=50, memory=10),
    "nvmlDeviceGetComputeMode": pynvml.NVML_COMPUTEMODE_DEFAULT,
    "nvmlDeviceGetComputeRunningProcesses": [],
    "nvmlDeviceGetGraphicsRunningProcesses": [],
}


def fill() -> None:
    """Answer in nvidia-ml-py, at once: that is in the peers' favour."""
    for name, answer in _ANSWERS.items():
        setattr(pynvml, name, lambda *_, answer=answer: answer)
    pynvml.nvmlDeviceGetC2cModeInfoV = _unsupported

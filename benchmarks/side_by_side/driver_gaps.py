"""Calls of the other tools that the simulated NVIDIA driver does not implement; a real driver answers all of them."""

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
    """Answer in nvidia-ml-py, immediately, which is in favour of the other tools."""
    for name, answer in _ANSWERS.items():
        setattr(pynvml, name, lambda *_, answer=answer: answer)
    pynvml.nvmlDeviceGetC2cModeInfoV = _unsupported

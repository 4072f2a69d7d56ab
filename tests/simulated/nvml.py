"""The simulated NVIDIA driver: compiled once for each test session, loaded by the real nvidia-ml-py."""

import ctypes
import os
import shlex
import subprocess
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("nvml.c")


class SimulatedDriver:
    """The library, from the test's side."""

    def __init__(self, folder: Path) -> None:
        """Compile it into this folder, and load it so that nvidia-ml-py finds it by its name."""
        self.library = folder / "libnvidia-ml.so.1"
        compiler = shlex.split(os.environ.get("CC", "cc"))
        flags = ["-O2", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1", "-pthread"]
        subprocess.run([*compiler, *flags, "-o", self.library, SOURCE, "-lm"], check=True)
        self._sim = ctypes.CDLL(str(self.library), mode=ctypes.RTLD_GLOBAL)
        self._sim.sim_true_joules.restype = ctypes.c_double
        self._sim.sim_start.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_double]
        self._sim.sim_set_power.argtypes = [ctypes.c_int, ctypes.c_double]

    def start(self, gpus: int = 1, period_s: float = 0.1, watts: float = 90.0) -> None:
        """Show so many GPUs, whose counters refresh every ``period_s`` seconds."""
        self._sim.sim_start(gpus, round(period_s * 1e9), watts)

    def end(self) -> None:
        """Let no driver be found any more."""
        self._sim.sim_end()

    def set_power(self, watts: float, gpu: int = 0) -> None:
        """Draw so many watts from now on."""
        self._sim.sim_set_power(gpu, watts)

    def true_joules(self, gpu: int = 0) -> float:
        """Return the true energy up to now, from an arbitrary zero."""
        joules: float = self._sim.sim_true_joules(gpu)
        return joules

    def set_error(self, code: int, gpu: int = 0) -> None:
        """Let every query end with this NVML error; 0 for none."""
        self._sim.sim_set_error(gpu, code)

    def set_init_error(self, code: int) -> None:
        """Let nvmlInit end with this error; 0 for none."""
        self._sim.sim_set_init_error(code)

    def set_counter(self, present: bool, gpu: int = 0) -> None:  # noqa: FBT001
        """Say whether the GPU has an energy counter."""
        self._sim.sim_set_counter(gpu, int(present))

    def set_name(self, name: str, gpu: int = 0) -> None:
        """Name the GPU."""
        self._sim.sim_set_name(gpu, name.encode())

    def reload(self) -> None:
        """Reload the driver: counters start anew, handles die."""
        self._sim.sim_reload()

    @property
    def users(self) -> int:
        """How many nvmlInit are not shut down."""
        users: int = self._sim.sim_users()
        return users

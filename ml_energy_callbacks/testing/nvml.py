"""A simulated NVIDIA driver: a library in C that the real nvidia-ml-py loads instead of NVIDIA's."""

import ctypes
import os
import shlex
import subprocess
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Final

from ml_energy_callbacks.clock import NS_PER_S, Clock
from ml_energy_callbacks.testing.curves import Curve

SOURCE: Final = Path(__file__).with_name("nvml.c")

MAX_GPUS: Final = 64

_EVER_NS: Final = 2**62

_ClockFunction = ctypes.CFUNCTYPE(ctypes.c_int64)
_CurveFunction = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64)

_INT, _LONG, _DOUBLE, _TEXT = ctypes.c_int, ctypes.c_int64, ctypes.c_double, ctypes.c_char_p
_ARGUMENTS: Final = {
    "sim_start": [_INT, _LONG, _DOUBLE, _ClockFunction],
    "sim_set_power": [_INT, _DOUBLE],
    "sim_true_joules": [_INT],
    "sim_set_curve": [_INT, _CurveFunction, _CurveFunction],
    "sim_set_module": [_INT, _CurveFunction, _CurveFunction, _INT],
    "sim_set_refresh": [_INT, _LONG, _LONG, _LONG],
    "sim_set_counter_rate": [_INT, _DOUBLE],
    "sim_jump": [_INT, _DOUBLE],
    "sim_set_error": [_INT, _INT, _LONG, _LONG],
    "sim_set_latency": [_INT, _LONG, _LONG, _LONG],
    "sim_set_limit": [_INT, _DOUBLE],
    "sim_set_name": [_INT, _TEXT],
    "sim_set_uuid": [_INT, _TEXT],
    "sim_add_slice": [_INT, _TEXT],
}
_RESULTS: Final = {"sim_true_joules": _DOUBLE, "sim_now": _LONG}


class SimulatedDriver:
    """NVIDIA's driver with up to 64 GPUs whose power, faults and features a test controls.

    There is one driver for the whole process, like the real one. Native GPUs, whose power is set by :meth:`set_power`, use the
    monotonic clock and answer within a microsecond. With curves and a manual clock, all their readings are deterministic.

    Wherever a method takes ``gpu``, it is the GPU's index.
    """

    def __init__(self, folder: Path) -> None:
        """Compile the library into this folder, and load it so that nvidia-ml-py finds it by name.

        The compiler is that of the environment variable ``CC``, or ``cc``.
        """
        self.library = folder / "libnvidia-ml.so.1"
        compiler = shlex.split(os.environ.get("CC", "cc"))
        flags = ["-O2", "-shared", "-fPIC", f"-Wl,-soname,{self.library.name}", "-pthread"]
        subprocess.run([*compiler, *flags, "-o", self.library, SOURCE, "-lm"], check=True)  # noqa: S603 - the user's compiler
        self._sim = ctypes.CDLL(str(self.library), mode=ctypes.RTLD_GLOBAL)
        for name, types in _ARGUMENTS.items():
            getattr(self._sim, name).argtypes = types
        for name, result in _RESULTS.items():
            getattr(self._sim, name).restype = result
        # Kept for ever: a thread that hangs in the driver may still call one after the simulation has ended.
        self._functions: list[object] = []

    def start(
        self,
        gpus: int = 1,
        period_s: float = 0.1,
        watts: float = 90.0,
        *,
        curves: Sequence[Curve] = (),
        clock: Clock | None = None,
    ) -> None:
        """Start a new simulation without faults.

        Args:
            gpus: Number of GPUs, at least the number of curves.
            period_s: Refresh period of their counters and power readings in s; 0 for none.
            watts: Power of GPUs without a curve, until it is set.
            curves: Power of the first GPUs over the time of ``clock``.
            clock: Clock of the driver; None for the monotonic clock.

        Raises:
            ValueError: The number of GPUs is too large.
        """
        count = max(gpus, len(curves))
        if count > MAX_GPUS:
            msg = f"{count} GPUs are more than {MAX_GPUS}."
            raise ValueError(msg)
        function = _ClockFunction() if clock is None else _ClockFunction(clock)
        self._functions.append(function)
        self._sim.sim_start(count, round(period_s * NS_PER_S), watts, function)
        for gpu, curve in enumerate(curves):
            self._sim.sim_set_curve(gpu, *self._pointers(curve))

    def _pointers(self, curve: Curve) -> Sequence[object]:
        pointers = [_CurveFunction(curve.watts), _CurveFunction(curve.joules)]
        self._functions += pointers
        return pointers

    def end(self) -> None:
        """End the simulation: no driver is found from now on."""
        self._sim.sim_end()

    def environment(self, gpus: int = 1, watts: float = 90.0) -> dict[str, str]:
        """Return the environment variables with which another process has this many GPUs of this power from its start."""
        path = os.environ.get("LD_LIBRARY_PATH")
        return {
            "LD_LIBRARY_PATH": os.pathsep.join([str(self.library.parent), *([path] if path else [])]),
            "ML_ENERGY_SIMULATED_GPUS": f"{gpus}:{watts:g}",
        }

    # ---------------------------------------------------------------------------------------------------- power

    def set_power(self, watts: float, gpu: int = 0) -> None:
        """Set the power of a GPU without a curve from now on."""
        self._sim.sim_set_power(gpu, watts)

    def true_joules(self, gpu: int = 0) -> float:
        """Return the true energy up to now, from an arbitrary zero."""
        joules: float = self._sim.sim_true_joules(gpu)
        return joules

    def set_module(self, rest: Curve, gpu: int = 0, *, counted: bool = True) -> None:
        """Make the GPU part of a superchip.

        Args:
            rest: Power of the rest of the module: processor, memory, regulators.
            gpu: The GPU.
            counted: Whether the energy counter covers the whole module.
        """
        self._sim.sim_set_module(gpu, *self._pointers(rest), int(counted))

    def set_limit(self, watts: float, gpu: int = 0) -> None:
        """Set the power limit that the driver reports, which cannot be set higher; it is not applied."""
        self._sim.sim_set_limit(gpu, watts)

    # ---------------------------------------------------------------------------------------------------- counter

    def set_refresh(self, period_s: float, offset_s: float = 0.0, jitter_s: float = 0.0, gpu: int = 0) -> None:
        """Refresh counter and power on this grid.

        Args:
            period_s: Period in s; 0 for none.
            offset_s: Instant of any refresh, in s of the driver's clock.
            jitter_s: Each refresh is early or late by up to half of this; below ``period_s``.
            gpu: The GPU.
        """
        self._sim.sim_set_refresh(gpu, *(round(seconds * NS_PER_S) for seconds in (period_s, offset_s, jitter_s)))

    def set_counter(self, present: bool, gpu: int = 0) -> None:  # noqa: FBT001
        """Set whether the GPU has an energy counter."""
        self._sim.sim_set_counter(gpu, int(present))

    def set_instant_power(self, present: bool, gpu: int = 0) -> None:  # noqa: FBT001
        """Set whether the GPU reports its instant power in addition to the average over 1 s."""
        self._sim.sim_set_instant_power(gpu, int(present))

    def set_counter_rate(self, rate: float, gpu: int = 0) -> None:
        """Let the counter run at ``rate`` times the true power from now on: 0 freezes it, below 0 it runs backwards."""
        self._sim.sim_set_counter_rate(gpu, rate)

    def jump(self, joules: float, gpu: int = 0) -> None:
        """Move the counter by joules that were not used."""
        self._sim.sim_jump(gpu, joules)

    def reload(self) -> None:
        """Reload the driver: counters are reset, and NVML works only after all users have shut it down and initialised it."""
        self._sim.sim_reload()

    # ---------------------------------------------------------------------------------------------------- faults

    def set_error(self, code: int, gpu: int = 0, *, after_s: float = 0.0, for_s: float = inf) -> None:
        """Let every query end with this NVML error, including the search for the GPU; 0 for none.

        With the error "not supported" (3), the GPU is still found.

        Args:
            code: The error.
            gpu: The GPU.
            after_s: Start of the fault, in s from now.
            for_s: Its duration in s; unlimited by default.
        """
        self._sim.sim_set_error(gpu, code, *self._window(after_s, for_s))

    def set_latency(self, seconds: float, gpu: int = 0, *, after_s: float = 0.0, for_s: float = inf) -> None:
        """Let every query in a time window, given as for :meth:`set_error`, block for this many real seconds."""
        self._sim.sim_set_latency(gpu, round(seconds * NS_PER_S), *self._window(after_s, for_s))

    def _window(self, after_s: float, for_s: float) -> tuple[int, int]:
        start: int = self._sim.sim_now() + round(after_s * NS_PER_S)
        return start, _EVER_NS if for_s == inf else start + round(for_s * NS_PER_S)

    def set_init_error(self, code: int) -> None:
        """Let nvmlInit end with this error; 0 for none."""
        self._sim.sim_set_init_error(code)

    # ---------------------------------------------------------------------------------------------------- what it is

    def set_name(self, name: str, gpu: int = 0) -> None:
        """Set the GPU's name."""
        self._sim.sim_set_name(gpu, name.encode())

    def set_uuid(self, uuid: str, gpu: int = 0) -> None:
        """Set the GPU's UUID, such as ``GPU-<uuid>``."""
        self._sim.sim_set_uuid(gpu, uuid.encode())

    def set_bus(self, bus: int, gpu: int = 0) -> None:
        """Move the GPU to another PCI bus; by default, GPU i is on bus i + 1."""
        self._sim.sim_set_bus(gpu, bus)

    def set_mig(self, slices: Sequence[str] | None, gpu: int = 0) -> None:
        """Turn MIG on, with slices of these UUIDs (``MIG-<uuid>``), or off for None."""
        self._sim.sim_set_mig_mode(gpu, int(slices is not None))
        for uuid in slices or ():
            self._sim.sim_add_slice(gpu, uuid.encode())

    def add_process_sample(self, pid: int, sm_percent: int, gpu: int = 0) -> None:
        """Add a sample of a process that uses this percentage of the GPU, at the present time of the driver's clock."""
        self._sim.sim_add_sample(gpu, pid, sm_percent)

    @property
    def users(self) -> int:
        """Number of calls of nvmlInit without a shutdown."""
        users: int = self._sim.sim_users()
        return users

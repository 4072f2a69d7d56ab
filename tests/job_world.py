"""Simulated devices of a job's processes, each with its own GPU and its host's processor, and their true energy."""

import ctypes
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from forked import Forked, Warm, programs_environment

from ml_energy_callbacks import RunRecord
from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter
from ml_energy_callbacks.testing.nvml import SimulatedDriver

GPU_WATTS = (100.0, 300.0, 200.0, 400.0)
CPU_WATTS = 50.0
REST_WATTS = 0.1
REFRESH_S = 0.02
"""A counter in whole mJ shows each refresh even when idle, so that its refreshes are learned before the work begins."""
REST_S = 0.2
"""The counters are read between the ends of the run and the work, even if some reads are late."""
PROCESSOR = "scripted:package-0"


def gpu(number: int, host: str = "") -> str:
    """Return the id of a simulated GPU, with the host as in a record of several hosts."""
    return f"nvml:GPU-{number:08}-0000-0000-0000-000000000000{host}"


class Place:
    """The devices of a process: GPUs of the simulated driver, each with its own power, and its host's processor.

    They use almost no power before and after the work, so that their energy does not depend on when the run begins and ends.
    For a process that ends in the middle of its work, the power is constant instead, and the energy is known from it.
    """

    def __init__(self, *, steady: bool = False) -> None:
        """Create the processor; with ``steady``, the power is constant."""
        self._steady = steady
        self._cpu = PowerCurve(monotonic_clock, CPU_WATTS if steady else REST_WATTS)
        device = Device(PROCESSOR, "Processor", "cpu", "scripted", "energy_counter", "measured", 0.01)
        self.processor = ScriptedBackend([ScriptedCounter(self._cpu, monotonic_clock, REFRESH_S, device=device)])

    def see(self, gpus: Sequence[int], refresh_s: float = REFRESH_S) -> None:
        """Make these GPUs visible to this process, with this refresh period of their counters."""
        self._gpus = gpus
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
        driver = self._driver()
        for number, watts in enumerate(GPU_WATTS):
            driver.sim_set_power(number, watts if self._steady else REST_WATTS)
            driver.sim_set_refresh(number, round(refresh_s * NS_PER_S), 0, 0)

    def backends(self, gpus: Sequence[int]) -> list[Any]:
        """Make these GPUs visible to this process, and return the backends of its devices."""
        self.see(gpus)
        return [NvmlBackend(), self.processor]

    def work(self) -> None:
        """Begin to work, some time after the run began."""
        if not self._steady:
            time.sleep(REST_S)
        self._began = self._drawn()
        if not self._steady:
            self._set(GPU_WATTS, CPU_WATTS)

    def rest(self, folder: Path, rank: int) -> None:
        """End the work, some time before the run ends, and write its true energy into the folder."""
        if not self._steady:
            self._set([REST_WATTS] * len(GPU_WATTS), REST_WATTS)
        found = {device: joules - self._began[device] for device, joules in self._drawn().items()}
        if not self._steady:
            time.sleep(REST_S)
        (folder / f"drawn-{rank}.json").write_text(json.dumps(found), encoding="utf-8")

    def _set(self, gpu_watts: Sequence[float], cpu_watts: float) -> None:
        for number in self._gpus:
            self._driver().sim_set_power(number, gpu_watts[number])
        self._cpu.set(cpu_watts)

    def _drawn(self) -> dict[str, float]:
        gpus = {gpu(number): self._driver().sim_true_joules(number) for number in self._gpus}
        return {**gpus, PROCESSOR: self._cpu.joules()}

    @staticmethod
    def _driver() -> Any:
        driver = ctypes.CDLL("libnvidia-ml.so.1", mode=ctypes.RTLD_GLOBAL)
        driver.sim_set_power.argtypes = [ctypes.c_int, ctypes.c_double]
        driver.sim_set_refresh.argtypes = [ctypes.c_int, *[ctypes.c_int64] * 3]
        driver.sim_true_joules.restype = ctypes.c_double
        return driver


def drawn(folder: Path, ranks: Sequence[int] = (0, 1)) -> dict[str, float]:
    """Return the true energy of each device during the work; the first process that sees a device measures it."""
    found: dict[str, float] = {}
    for rank in ranks:
        found = json.loads((folder / f"drawn-{rank}.json").read_text("utf-8")) | found
    return found


def truth(record: RunRecord) -> dict[str, float]:
    """Return the true energy of the devices of two processes with one GPU each, if the power is constant: power x time."""
    seconds = [rank.seconds for rank in record.ranks]
    return {gpu(0): GPU_WATTS[0] * seconds[0], PROCESSOR: CPU_WATTS * seconds[0], gpu(1): GPU_WATTS[1] * seconds[1]}


def joules(record: RunRecord) -> dict[str, float]:
    """Return the energy of each device in the record."""
    return {device.id: device.joules for device in record.devices if device.joules is not None}


def check_truth(record: RunRecord, drawn: dict[str, float]) -> None:
    """Check a job's energy against the truth, to 0.1 % or to 10 ms, the accuracy of the timestamps on a busy machine."""
    found = joules(record)
    assert found.keys() == drawn.keys()
    for device, watts in ((gpu(0), GPU_WATTS[0]), (gpu(1), GPU_WATTS[1]), (PROCESSOR, CPU_WATTS)):
        assert found[device] == pytest.approx(drawn[device], rel=1e-3, abs=0.01 * watts)
    assert record.total.joules == pytest.approx(sum(found.values()))
    assert sum(rank.joules or 0.0 for rank in record.ranks) == pytest.approx(record.total.joules)
    assert sum(node.joules or 0.0 for node in record.nodes) == pytest.approx(record.total.joules)


def start(
    script: Path,
    driver: dict[str, str],
    *args: object,
    before: Sequence[str] = (),
    options: Sequence[str] = (),
    **extra: str,
) -> "subprocess.Popen[str]":
    """Start a Python process with a simulated driver, with this command before it and these options."""
    environment = programs_environment(**{**driver, "OMP_NUM_THREADS": "1", **extra})
    command = [*before, sys.executable, *options, script, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def free_port() -> str:
    """Return a free port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def start_ranks(
    program: Warm, script: Path, driver: SimulatedDriver, folder: Path, *args: object, ranks: int = 2, nodes: int = 1
) -> list[Forked]:
    """Start the processes of a job as torchrun does, with the environment variables of torch's process groups.

    Each has the simulated GPUs of :data:`GPU_WATTS`, and the folder as the first argument.
    """
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(ranks * nodes), "GLOO_SOCKET_IFNAME": "lo"}
    processes = []
    for rank in range(ranks * nodes):
        place = {"RANK": str(rank), "NODE_RANK": str(rank // ranks), "LOCAL_RANK": str(rank % ranks)}
        environment = {**driver.environment(len(GPU_WATTS)), **job, **place}
        options = {"folder": folder, "libraries": [driver.library], "environment": environment}
        processes.append(program.start(script, folder, *args, **options))
    return processes


def wait(process: Forked, code: int | None = 0) -> str:
    """Wait for a process that ends with this code (None: any but 0), and return its output."""
    found = process.wait()
    assert found != 0 if code is None else found == code, f"exit status {found}: {process.output}{process.errors}"
    return process.output


def end(process: "subprocess.Popen[str]", code: int | None = 0) -> str:
    """Wait for a process that ends with this code (None: any but 0), and return its output."""
    try:
        output, _ = process.communicate(timeout=150)
    finally:
        process.kill()
    assert process.returncode != 0 if code is None else process.returncode == code, output
    return output

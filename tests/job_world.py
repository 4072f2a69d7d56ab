"""What a process of a job has in the tests, a simulated GPU of its own and its host's processor, and what is then true."""

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from forked import Forked, Warm

from ml_energy_callbacks import RunRecord
from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter
from ml_energy_callbacks.testing.nvml import SimulatedDriver

GPU_WATTS = (100.0, 300.0, 200.0, 400.0)
CPU_WATTS = 50.0
PROCESSOR = "scripted:package-0"

_TESTS = Path(__file__).parent


def gpu(number: int, host: str = "") -> str:
    """Return the id of a simulated GPU, in a record of several hosts with the host."""
    return f"nvml:GPU-{number:08}-0000-0000-0000-000000000000{host}"


def see(gpus: Sequence[int], refresh_s: float = 0.001) -> None:
    """Let this process see these GPUs of the simulated driver, each with watts of its own; their counters refresh so often."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    driver = ctypes.CDLL("libnvidia-ml.so.1", mode=ctypes.RTLD_GLOBAL)
    driver.sim_set_power.argtypes = [ctypes.c_int, ctypes.c_double]
    driver.sim_set_refresh.argtypes = [ctypes.c_int, *[ctypes.c_int64] * 3]
    for number, watts in enumerate(GPU_WATTS):
        driver.sim_set_power(number, watts)
        driver.sim_set_refresh(number, round(refresh_s * NS_PER_S), 0, 0)


def processor() -> ScriptedBackend:
    """Return a processor that each process of a host sees."""
    device = Device(PROCESSOR, "Processor", "cpu", "scripted", "energy_counter", "measured", 0.01)
    return ScriptedBackend([ScriptedCounter(PowerCurve(monotonic_clock, CPU_WATTS), monotonic_clock, 0.0, device=device)])


def backends(gpus: Sequence[int]) -> list[Any]:
    """Let this process see these GPUs, and return where its devices are found."""
    see(gpus)
    return [NvmlBackend(), processor()]


def truth(record: RunRecord) -> dict[str, float]:
    """Return what each device drew, of two processes with a GPU each whose host rank 0 measures: its watts for its time."""
    seconds = [rank.seconds for rank in record.ranks]
    return {gpu(0): GPU_WATTS[0] * seconds[0], PROCESSOR: CPU_WATTS * seconds[0], gpu(1): GPU_WATTS[1] * seconds[1]}


def joules(record: RunRecord) -> dict[str, float]:
    """Return what each device drew by the record."""
    return {device.id: device.joules for device in record.devices if device.joules is not None}


def check_truth(record: RunRecord) -> None:
    """Check that a job's joules are what was drawn, to 0.1 %, or to 10 ms, as a busy machine stamps no read more exactly."""
    drawn = truth(record)
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
    """Start a process of Python, behind this command and with these options, that has a simulated driver."""
    path = os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **driver, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", **extra}
    command = [*before, sys.executable, *options, script, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def free_port() -> str:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def start_ranks(
    program: Warm, script: Path, driver: SimulatedDriver, folder: Path, *args: object, ranks: int = 2, nodes: int = 1
) -> list[Forked]:
    """Start the processes of a job as torchrun does, with the variables by which torch's process groups find each other.

    Each sees the simulated GPUs of :data:`GPU_WATTS`, and is given the folder before its other arguments.
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
    """Wait for a process that ends with this code, None for any but 0, and return what it printed."""
    found = process.wait()
    assert found != 0 if code is None else found == code, f"exit status {found}: {process.output}{process.errors}"
    return process.output


def end(process: "subprocess.Popen[str]", code: int | None = 0) -> str:
    """Wait for a process that ends with this code, None for any but 0, and return what it said."""
    try:
        output, _ = process.communicate(timeout=150)
    finally:
        process.kill()
    assert process.returncode != 0 if code is None else process.returncode == code, output
    return output

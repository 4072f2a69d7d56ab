"""Whose energy it is: the machine's; beside it the meter of the whole machine, and this job's estimated share."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from ml_energy_callbacks import EnergyMeter, load_record
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.process_share import ProcessTree
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, ScriptedPower, SteppedMeter

CPU = Device(
    id="rapl:package-0",
    name="A processor",
    kind="cpu",
    backend="rapl",
    method="energy_counter",
    provenance="measured",
    relative_uncertainty=0.05,
    update_period_s=0.001,
)
GPU = replace(CPU, id="nvml:GPU-0", kind="gpu", backend="nvml", update_period_s=None)
PLUG = replace(
    CPU, id="plug:0", kind="board", backend="plug", method="power_integration", whole_machine=True, min_interval_s=0.2
)


@dataclass(slots=True)
class UsedGpu(ScriptedCounter):
    """A GPU that says how much of its use is this job's."""

    share: float | None = 0.25

    def process_share(self, pids: object) -> float | None:
        return self.share


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def processor(clock: ManualClock) -> ScriptedCounter:
    return ScriptedCounter(PowerCurve(clock, 100), clock, period_s=0.001, device=CPU)


class Use:
    """How much of the CPU time of all processes was that of some, since it was made: by the kernel's own files."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._began = self._own(), self._busy()

    def _own(self) -> float:
        """Return the clock ticks of the processes, and of their children that they waited for."""
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self._pids]
        return sum(sum(map(int, fields[11:15])) for fields in stats)

    def _busy(self) -> float:
        user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8])
        return user + nice + system + irq + softirq

    @property
    def seconds(self) -> float:
        return (self._own() - self._began[0]) / os.sysconf("SC_CLK_TCK")

    @property
    def share(self) -> float:
        return (self._own() - self._began[0]) / (self._busy() - self._began[1])


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_meter_of_the_whole_machine_stands_beside_the_total(clock: ManualClock, tmp_path: Path) -> None:
    plug = ScriptedPower(PowerCurve(clock, 300), clock, device=PLUG)
    meter = SteppedMeter(
        clock, backends=[ScriptedBackend([processor(clock), plug])], output_dir=tmp_path, carbon_intensity=1, verbose=False
    )
    with meter, meter.stage("train"):
        clock.advance(1.5)
        metrics = meter.totals()
    record = load_record(tmp_path)
    seconds = record.total.seconds
    assert record.total.joules == pytest.approx(100 * seconds, rel=0.05)
    assert [device.id for device in record.devices] == ["rapl:package-0"]
    (whole,) = record.whole_machine
    assert whole.joules == pytest.approx(300 * seconds, rel=0.1)
    assert whole.stages["train"] == pytest.approx(300 * record.stages["train"].seconds, rel=0.1)
    assert "plug:0" not in record.stages["train"].devices
    assert metrics["energy/total/whole_machine_joules"] > 2 * metrics["energy/total/joules"]


def test_the_machines_energy_is_what_totals_hold_and_the_record_says_so(clock: ManualClock) -> None:
    meter = SteppedMeter(clock, backends=[ScriptedBackend([processor(clock)])], carbon_intensity=1, verbose=False)
    with meter:
        clock.advance(0.1)
    assert meter.record.total.scope == "machine"
    assert meter.record.process is None
    with pytest.raises(ConfigurationError, match="give 'machine' or 'process'"):
        EnergyMeter(scope="host")  # type: ignore[arg-type]


@pytest.fixture
def stranger() -> Iterator[None]:
    """A process that keeps a core busy, and is no child of this one."""
    shell = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -c 'while True: pass' >/dev/null 2>&1 & echo $!"],
        check=True,
        capture_output=True,
        text=True,
    )
    yield
    os.kill(int(shell.stdout), signal.SIGKILL)


@pytest.mark.usefixtures("stranger")
def test_a_busy_job_has_its_part_of_the_processors_energy_and_an_idle_one_next_to_none(clock: ManualClock) -> None:
    def measure(work: Callable[[], None]) -> tuple[float, float]:
        """Return the job's share of the energy, and what it had of the CPU time."""
        backends = [ScriptedBackend([processor(clock)])]
        meter = SteppedMeter(clock, backends=backends, scope="process", carbon_intensity=1, verbose=False)
        with meter:
            use = Use(os.getpid())
            for _ in range(60):
                work()
                clock.advance(0.05)
            true = use.share
        process, joules = meter.record.process, meter.record.total.joules
        assert process is not None
        assert process.provenance == "estimated"
        assert process.joules is not None
        assert joules == pytest.approx(100 * meter.record.total.seconds, rel=0.05)
        return process.joules / joules, true

    begun = time.monotonic()
    busy, truly_busy = measure(lambda: burn(0.015))
    took = time.monotonic() - begun
    idle, truly_idle = measure(lambda: time.sleep(took / 60))
    assert (busy, idle) == pytest.approx((truly_busy, truly_idle), rel=0.3, abs=0.02)
    assert idle < 0.2
    assert idle < 0.3 * busy  # in the same time
    assert busy < 1


def test_children_that_came_and_went_are_counted(clock: ManualClock) -> None:
    tree = ProcessTree([os.getpid()], clock)
    before, use = tree._cpu_seconds, Use(os.getpid())
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        worker = context.Process(target=burn, args=(0.2,))
        worker.start()
        worker.join()
    clock.advance(0.6)
    assert 0 < tree.cpu_share() <= 1
    assert use.seconds >= 0.55
    assert tree._cpu_seconds - before == pytest.approx(use.seconds, abs=0.05)
    assert len(tree.pids) >= 1


ORPHAN = """
import os, sys, time
if os.fork() == 0:
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


def test_a_childs_child_that_is_left_alone_takes_its_past_with_it_and_no_more(clock: ManualClock) -> None:
    tree = ProcessTree([os.getpid()], clock)
    child = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE)
    assert child.stdout is not None
    orphan = int(child.stdout.readline())
    try:
        clock.advance(2.5)
        tree.cpu_share()
        assert orphan in tree.pids
        child.kill()
        child.wait()
        child.stdout.close()
        shares, true = [], []
        for _ in range(3):
            use = Use(os.getpid())
            burn(0.3)
            clock.advance(0.6)
            shares.append(tree.cpu_share())
            true.append(use.share)
    finally:
        os.kill(orphan, signal.SIGKILL)
    # The orphan's past is missing in the first look after that, and what passed in the meantime.
    assert max(shares[1:]) == pytest.approx(true[shares.index(max(shares[1:]), 1)], rel=0.25)


@pytest.mark.parametrize("share", [0.25, None])
def test_a_gpu_that_tells_who_uses_it_is_shared_by_that_and_otherwise_unknown(clock: ManualClock, share: float | None) -> None:
    gpu = UsedGpu(PowerCurve(clock, 200), clock, device=GPU, share=share)
    meter = SteppedMeter(clock, backends=[ScriptedBackend([gpu])], scope="process", carbon_intensity=1, verbose=False)
    with meter, meter.stage("train"):
        clock.advance(2.5)
    process = meter.record.process
    assert process is not None
    (device,) = process.devices
    assert device.id == "process:nvml:GPU-0"
    if share is None:
        assert process.joules is None
    else:
        assert process.joules == pytest.approx(50 * meter.record.total.seconds, rel=0.1)
        assert process.stages["train"] == pytest.approx(50 * meter.record.stages["train"].seconds, rel=0.15)


def test_a_gpu_that_does_not_tell_who_uses_it_has_a_reason(clock: ManualClock) -> None:
    gpu = ScriptedCounter(PowerCurve(clock, 200), clock, device=GPU)
    meter = SteppedMeter(clock, backends=[ScriptedBackend([gpu])], scope="process", carbon_intensity=1, verbose=False)
    with meter:
        clock.advance(0.2)
    process = meter.record.process
    assert process is not None
    assert process.joules is None
    assert process.unknown == {"nvml:GPU-0": "nvml:GPU-0 does not report which processes use it."}


def test_a_run_that_is_resumed_goes_on_with_what_is_beside_the_total_and_with_its_uncertainty(clock: ManualClock) -> None:
    def run(
        device: Device, scope: Literal["machine", "process"], earlier: RunRecord | None
    ) -> tuple[RunRecord, dict[str, float]]:
        counter = ScriptedCounter(PowerCurve(clock, 100), clock, period_s=0.001, device=device)
        plug = ScriptedPower(PowerCurve(clock, 300), clock, device=PLUG)
        meter = SteppedMeter(clock, backends=[ScriptedBackend([counter, plug])], scope=scope, carbon_intensity=1, verbose=False)
        with meter:
            if earlier is not None:
                meter.resume(earlier)
            clock.advance(2.2)
            metrics = meter.totals()
        return meter.record, metrics

    first, _ = run(replace(CPU, relative_uncertainty=0.6), "machine", None)
    both, metrics = run(CPU, "process", first)
    assert both.total.joules == pytest.approx(100 * both.total.seconds, rel=0.05)
    assert both.devices[0].relative_uncertainty == pytest.approx(0.325, abs=0.05)
    (whole,) = both.whole_machine
    assert whole.joules == pytest.approx(300 * both.total.seconds, rel=0.1)
    assert metrics["energy/total/whole_machine_joules"] == pytest.approx(whole.joules, rel=0.2)
    assert both.process is None  # the first part did not ask
    assert "energy/total/process_joules" not in metrics

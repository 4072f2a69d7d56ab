"""Examine a simulated machine: two processors with memory, an Intel GPU, and a smart plug that meters the whole machine.

The backends are the real ones; the interfaces they read are simulated, follow power curves of known energy, and run in real
time. You can test your own code in the same way on hardware that you do not have.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from ml_energy_callbacks.backends.intel_gpu import IntelGpuBackend
from ml_energy_callbacks.backends.plug import PlugBackend
from ml_energy_callbacks.backends.rapl import RaplBackend
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.doctor import examine, render
from ml_energy_callbacks.testing import SineCurve, SquareCurve, StepCurve
from ml_energy_callbacks.testing.hwmon import SimulatedIntelGpu
from ml_energy_callbacks.testing.plug import SimulatedPlug
from ml_energy_callbacks.testing.powercap import SimulatedPowercap

with ExitStack() as world:
    folder = Path(world.enter_context(tempfile.TemporaryDirectory()))
    powercap = SimulatedPowercap(folder / "powercap", monotonic_clock)
    for number in range(2):
        package = powercap.package(SquareCurve(60, 240, period_s=0.4), number=number)
        powercap.part(package, "dram", StepCurve([(0, 20)]))
        powercap.part(package, "core", StepCurve([(0, 100)]))  # part of the package: not read
    gpu = SimulatedIntelGpu(folder / "intel", monotonic_clock, SineCurve(150, 100, period_s=0.6))
    plug = world.enter_context(SimulatedPlug([StepCurve([(0, 640)])], monotonic_clock))
    for files in (powercap.files, gpu.files):
        world.enter_context(files.live())
    backends = [RaplBackend(powercap.files.root), IntelGpuBackend(gpu.root), PlugBackend([plug.address])]
    diagnosis = examine(backends=backends)

Console().print(render(diagnosis))
parts = sum(device.watts for device in diagnosis.devices if not device.whole_machine)
print(f"The parts draw {parts:.0f} W; the true value is 490 W.")

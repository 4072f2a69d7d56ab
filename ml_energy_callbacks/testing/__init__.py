"""Public fakes: a manual clock, curves of power, and simulated hardware that the real backends read.

With these a whole run, refresh grids and all, plays under a clock that the test moves: no hardware, no waiting. The same
worlds run in real time, too. Each kind of hardware has a module of its own:

- :mod:`~ml_energy_callbacks.testing.nvml`: NVIDIA's driver library, which needs a C compiler;
- :mod:`~ml_energy_callbacks.testing.powercap` and :mod:`~ml_energy_callbacks.testing.proc`: processors;
- :mod:`~ml_energy_callbacks.testing.hwmon`: Intel's GPUs, Jetson modules, Arm servers, batteries;
- :mod:`~ml_energy_callbacks.testing.amdsmi`, :mod:`~ml_energy_callbacks.testing.apple`: the vendors' Python packages;
- :mod:`~ml_energy_callbacks.testing.tpu` (needs the extra ``tpu``), :mod:`~ml_energy_callbacks.testing.plug`: servers.

The suite that backends have to pass is in :mod:`ml_energy_callbacks.testing.conformance`, which needs pytest.
"""

from ml_energy_callbacks.testing.clocks import ManualClock
from ml_energy_callbacks.testing.curves import Curve, PowerCurve, SineCurve, SquareCurve, StepCurve
from ml_energy_callbacks.testing.files import SimulatedFiles
from ml_energy_callbacks.testing.meters import SteppedMeter
from ml_energy_callbacks.testing.scripted import ScriptedBackend, ScriptedCounter, ScriptedPower

__all__ = [
    "Curve",
    "ManualClock",
    "PowerCurve",
    "ScriptedBackend",
    "ScriptedCounter",
    "ScriptedPower",
    "SimulatedFiles",
    "SineCurve",
    "SquareCurve",
    "StepCurve",
    "SteppedMeter",
]

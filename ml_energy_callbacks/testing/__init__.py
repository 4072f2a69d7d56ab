"""Public fakes: a manual clock, power curves, and simulated hardware that the real backends read.

With these, a whole run including refresh grids is simulated under a clock that the test advances, without hardware or waiting.
The same simulations also run in real time. Each kind of hardware has a module of its own:

- :mod:`~ml_energy_callbacks.testing.nvml`: NVIDIA's driver library, which requires a C compiler;
- :mod:`~ml_energy_callbacks.testing.powercap` and :mod:`~ml_energy_callbacks.testing.proc`: processors;
- :mod:`~ml_energy_callbacks.testing.hwmon`: Intel's GPUs, Jetson modules, Arm servers, batteries;
- :mod:`~ml_energy_callbacks.testing.amdsmi`, :mod:`~ml_energy_callbacks.testing.apple`: the vendors' Python packages;
- :mod:`~ml_energy_callbacks.testing.tpu` (requires the extra ``tpu``), :mod:`~ml_energy_callbacks.testing.plug`: servers.

:func:`replay` computes the record of a run from marks and readings that are given.

The suite that backends have to pass is in :mod:`ml_energy_callbacks.testing.conformance`, which requires pytest.
"""

from ml_energy_callbacks.testing.clocks import ManualClock
from ml_energy_callbacks.testing.curves import Curve, PowerCurve, SineCurve, SquareCurve, StepCurve
from ml_energy_callbacks.testing.files import SimulatedFiles
from ml_energy_callbacks.testing.meters import SteppedMeter
from ml_energy_callbacks.testing.replaying import replay
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
    "replay",
]

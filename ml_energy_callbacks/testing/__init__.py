"""Public fakes: a manual clock, curves of power, and simulated hardware that the real backends read.

With these a whole run, refresh grids and all, plays under a clock that the test moves: no hardware, no waiting. The same
worlds run in real time, too. The conformance suite for backends is in :mod:`ml_energy_callbacks.testing.conformance`, which
needs pytest.
"""

from ml_energy_callbacks.testing.clocks import ManualClock
from ml_energy_callbacks.testing.curves import Curve, PowerCurve, SineCurve, SquareCurve, StepCurve
from ml_energy_callbacks.testing.files import SimulatedFiles
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
]

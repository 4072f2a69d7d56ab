"""A world in which the parts of a batch take known times: a manual clock, and a callback whose meter goes by it."""

from typing import Any

from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter

WATTS = {"transfer": 150.0, "forward": 380.0, "backward": 430.0, "optimizer": 210.0, "rest": 120.0, "wait": 90.0}
SECONDS = {"transfer": 0.011, "forward": 0.052, "backward": 0.093, "optimizer": 0.034, "rest": 0.017, "wait": 0.023}


class BusyWorld:
    """A GPU that works in each part of a batch for some time, at a power of its own.

    Attributes:
        true: Time in s of each part so far.
    """

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.curve = PowerCurve(self.clock, WATTS["wait"])
        self.true = dict.fromkeys(WATTS, 0.0)
        self._works = 0

    def work(self, part: str) -> None:
        """Work in a part, for a time that is not always the same."""
        self._works += 1
        seconds = SECONDS[part] * (0.8 + 0.1 * (self._works % 5))
        self.curve.set(WATTS[part])
        self.clock.advance(seconds)
        self.true[part] += seconds
        self.curve.set(WATTS["rest"])

    def callback(self, kind: type[Any], **options: Any) -> Any:
        """Return a callback of this class that measures the GPU by the manual clock, and by default the parts."""
        world = self

        class ByClock(kind):  # type: ignore[misc]
            @property
            def _meter(self) -> SteppedMeter:
                return self._own_meter

            @_meter.setter
            def _meter(self, _: Any) -> None:
                backend = ScriptedBackend([ScriptedCounter(world.curve, world.clock, period_s=0.1)])
                self._own_meter = SteppedMeter(world.clock, **(self._options.of_meter | {"backends": [backend]}))

        return ByClock(**{"parts": True, "verbose": False, "carbon_intensity": 1, **options})

"""A meter without threads, with a manual clock."""

import inspect
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ml_energy_callbacks.clock import NS_PER_S, Timing
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.meter.options import MeterOptions
from ml_energy_callbacks.meter.sampler import Sampler, Steps
from ml_energy_callbacks.meter.session import Session
from ml_energy_callbacks.readings import Source
from ml_energy_callbacks.testing.clocks import ManualClock

_STEP_S = 0.005
_SEED = 1


class SteppedMeter(EnergyMeter):
    """An :class:`~ml_energy_callbacks.EnergyMeter` whose devices are read while a manual clock advances.

    It has no threads, and its results are deterministic: the dither between two reads is the same in each run. Starting and
    stopping advance the clock, because they wait for the devices to refresh.

    Args:
        clock: The clock, which the devices should use as well.
        began: Time of day at the clock's present instant, which advances with the clock; None for the present time of day.
        options: Options of an :class:`~ml_energy_callbacks.EnergyMeter`.
    """

    def __init__(self, clock: ManualClock, *, began: datetime | None = None, **options: Any) -> None:  # noqa: ANN401
        """Check the options."""
        self._clock = clock
        self._zero = (began or datetime.now(UTC)) - timedelta(seconds=clock() / NS_PER_S)
        super().__init__(**options)

    def _new_session(self, options: MeterOptions) -> Session:
        clock, zero = self._clock, self._zero
        timing = Timing(clock, clock.advance, lambda: zero + timedelta(seconds=clock() / NS_PER_S))
        return Session(options, timing, _make_stepped_sampler(clock))


def _make_stepped_sampler(clock: ManualClock) -> type[Sampler]:
    """Return a sampler that uses this clock instead of threads."""

    class SteppedSampler(Sampler):
        _work: Sequence[Steps] = ()

        def _begin(self) -> Sequence[Source]:
            for poller in self._pollers.values():
                poller.random.seed(_SEED)
            self._work = [*(self._polling(poller) for poller in self._pollers.values()), self._reviewing()]
            for steps in self._work:
                clock.run(steps)
            return ()

        def stop(self, end: int) -> Sequence[Source]:
            self._end = end
            self._stopping.set()
            for steps in self._work:
                if inspect.getgeneratorstate(steps) != inspect.GEN_RUNNING:  # the review itself may be stopping the meter
                    steps.close()
            for poller in self._pollers.values():
                clock.run(self._ending(poller))
            while not all(poller.closed for poller in self._pollers.values()):
                clock.advance(_STEP_S)
            return []

    return SteppedSampler

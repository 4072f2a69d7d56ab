"""The suite that every backend has to pass, including third-party backends; it requires pytest.

Subclass :class:`BackendConformance` in a test module, with a name that begins with ``Test``, and define a bench::

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def bench(self, tmp_path):
            clock = ManualClock()
            curve = SquareCurve(100, 300, period_s=0.5)
            ...
            return Bench(MyBackend(root=tmp_path), clock, lambda device_id: curve, ...)
"""

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import get_args

import pytest

from ml_energy_callbacks.attribution.counters import EnergyCounter, PowerIntegral, most_watts
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Backend, Device, Kind, Method, PowerSource, Provenance, SharedSource, Source
from ml_energy_callbacks.testing.clocks import ManualClock
from ml_energy_callbacks.testing.curves import Curve

_STEP_S = 0.05
_STEPS = 200
_SLOWEST_READ_S = 2.0
_SLOW_READ_S = 0.25
_RAREST_S = 10.0


@dataclass
class Bench:
    """A backend with hardware that the test controls.

    Attributes:
        backend: The backend on a machine with the hardware.
        clock: The manual clock of the hardware, and of the backend if it uses a clock.
        truth: Returns the true power of a device id; None for a device that is only estimated.
        absent: The same backend on a machine without the hardware.
        fail: Makes every read fail from now on; None if no read can fail (a model of constant power).
        mend: Ends the failure.
        refresh_s: Longest refresh period of the hardware in s.
        resolution: Resolution of a value in J, or in W if power is read.
    """

    backend: Backend
    clock: ManualClock
    truth: Callable[[str], Curve | None]
    absent: Backend | None = None
    fail: Callable[[], object] | None = None
    mend: Callable[[], object] = field(default=lambda: None)
    refresh_s: float = 0.1
    resolution: float = 0.001


class BackendConformance:
    """The requirements on a backend."""

    @pytest.fixture
    def bench(self) -> Bench:
        """Return the bench; subclasses override this."""
        raise NotImplementedError

    @pytest.fixture
    def sources(self, bench: Bench) -> Iterator[Sequence[Source]]:
        """Open the devices, and close them after the test."""
        sources = bench.backend.open()
        try:
            yield sources
        finally:
            for source in sources:
                source.close()

    def test_devices_are_found(self, sources: Sequence[Source]) -> None:
        """``open`` never returns an empty sequence, and what it returns are sources."""
        assert len(sources) > 0
        assert all(isinstance(source, Source) for source in sources)

    def test_ids_are_unique_and_begin_with_the_backends_name(self, bench: Bench, sources: Sequence[Source]) -> None:
        """``devices=["name:*"]`` selects the devices of a backend."""
        ids = [source.device.id for source in sources]
        assert len(set(ids)) == len(ids)
        assert all(name.startswith(f"{bench.backend.name}:") for name in ids)
        assert all(source.device.backend == bench.backend.name for source in sources)

    def test_devices_say_what_they_are(self, sources: Sequence[Source]) -> None:
        """Each field has one of its allowed values."""
        for device in (source.device for source in sources):
            assert device.name
            assert device.kind in get_args(Kind)
            assert device.method in get_args(Method)
            assert device.provenance in get_args(Provenance)
            assert (device.method == "model") <= (device.provenance == "estimated"), "a model is an estimate"
            assert 0 < device.relative_uncertainty <= 1, "no device is exact"
            assert device.wrap_joules is None or device.wrap_joules > 0
            assert device.note is None or device.note.endswith("."), "a note is a sentence"
            assert 0 <= device.min_interval_s <= _RAREST_S, "a run of a few minutes would not be measured"
            assert device.max_watts is None or 0 < device.max_watts < math.inf, "a limit of 0 W would refuse all readings"

    def test_opening_again_finds_the_same_devices(self, bench: Bench, sources: Sequence[Source]) -> None:
        """Two meters may measure at once, and a second run has the same ids."""
        again = bench.backend.open()
        try:
            assert [source.device for source in again] == [source.device for source in sources]
            assert all(math.isfinite(source.read()) for source in again)
        finally:
            for source in again:
                source.close()
        assert all(math.isfinite(source.read()) for source in sources), (
            "closing the sources of one call breaks those of another"
        )

    def test_missing_hardware_is_reported_in_a_sentence(self, bench: Bench) -> None:
        """Missing hardware results neither in an empty sequence nor in another error."""
        if bench.absent is None:
            pytest.skip("This backend finds its device on every machine.")
        with pytest.raises(BackendUnavailableError) as caught:
            bench.absent.open()
        assert re.match(r"^[A-Z].*\.$", caught.value.reason, re.DOTALL)
        assert caught.value.fix is None or len(caught.value.fix) > 0

    def test_energy_is_true_within_the_stated_uncertainty(self, bench: Bench, sources: Sequence[Source]) -> None:
        """The energy equals the integral of the true power, for counters, wraps and power readings."""
        start = bench.clock()
        totals = [_Total(source) for source in sources]
        for total in totals:
            total.read(bench.clock)
        for _ in range(_STEPS):
            bench.clock.advance(_STEP_S)
            for total in totals:
                total.read(bench.clock)
        end = bench.clock()
        for total in totals:
            assert total.joules >= 0
            curve = bench.truth(total.source.device.id)
            if curve is None:
                assert total.source.device.provenance == "estimated"
                continue
            true = curve.joules(end) - curve.joules(start)
            highest = max(curve.watts(start + i * (end - start) // _STEPS) for i in range(_STEPS + 1))
            edge = highest * (bench.refresh_s + _STEP_S) + bench.resolution * (_STEPS if total.integrates else 1)
            assert total.joules == pytest.approx(true, rel=total.source.device.relative_uncertainty, abs=edge)

    def test_a_failed_read_is_an_error_never_a_number(self, bench: Bench, sources: Sequence[Source]) -> None:
        """Unknown is not zero, and a device that recovers is read again."""
        if bench.fail is None:
            pytest.skip("No read of this backend can fail.")
        bench.fail()
        for source in sources:
            for _ in range(3):
                with pytest.raises(ReadError):
                    source.read()
        bench.mend()
        bench.clock.advance(1.0)
        assert all(math.isfinite(_read_again(source, bench)) for source in sources)

    def test_closing_is_harmless_and_final(self, sources: Sequence[Source]) -> None:
        """A second close does nothing, and a later read is an error."""
        for source in sources:
            source.close()
            source.close()
            with pytest.raises(ReadError):
                source.read()

    def test_own_power_agrees_with_the_counter(self, bench: Bench, sources: Sequence[Source]) -> None:
        """``watts()`` is compared with the counter; a device that does not report it raises ``ReadError``."""
        bench.clock.advance(_STEPS * _STEP_S)
        for source in sources:
            if not isinstance(source, PowerSource):
                continue
            assert source.device.method == "energy_counter", "power that is the reading itself cannot be compared with itself"
            curve = bench.truth(source.device.id)
            assert curve is not None
            powers = [curve.watts(bench.clock() - round(i * _STEP_S * NS_PER_S)) for i in range(_STEPS)]
            low, high = min(powers), max(powers)
            share = source.device.relative_uncertainty
            with contextlib.suppress(ReadError):
                assert low * (1 - share) - 1 <= source.watts() <= high * (1 + share) + 1

    def test_process_share_is_between_0_and_1(self, bench: Bench, sources: Sequence[Source]) -> None:
        """``process_share()`` is between 0 and 1, or None if the device does not report it or is closed."""
        for source in sources:
            if not isinstance(source, SharedSource):
                continue
            for pids in ((), (os.getpid(),)):
                bench.clock.advance(1.0)
                share = source.process_share(pids)
                assert share is None or 0 <= share <= (1 if pids else 0)
            source.close()
            assert source.process_share((os.getpid(),)) is None

    def test_another_thread_may_read(self, sources: Sequence[Source]) -> None:
        """The sampler reads devices in other threads than the one that opened them."""
        with ThreadPoolExecutor(1) as pool:
            values = list(pool.map(lambda source: source.read(), sources))
        assert all(math.isfinite(value) and value >= 0 for value in values)

    def test_a_read_ends_in_time(self, sources: Sequence[Source]) -> None:
        """A device whose reads may be slow has to set ``min_interval_s``, and each read has to end."""
        for source in sources:
            start = perf_counter()
            source.read()
            seconds = perf_counter() - start
            assert seconds < _SLOWEST_READ_S
            assert seconds < _SLOW_READ_S or source.device.min_interval_s, "it is read twenty times a second"


class _Total:
    """The energy of a source, by the same arithmetic as in a run."""

    def __init__(self, source: Source) -> None:
        self.source = source
        device: Device = source.device
        self.integrates = device.method == "power_integration"
        self._sum = PowerIntegral() if self.integrates else EnergyCounter(device.wrap_joules, most_watts(device))

    @property
    def joules(self) -> float:
        return self._sum.joules

    def read(self, clock: Callable[[], int]) -> None:
        value = self.source.read()
        assert math.isfinite(value)
        step = self._sum.advance(clock(), value)
        assert step not in {"reset", "returned"}, "a jump, or a counter that ran backwards"


def _read_again(source: Source, bench: Bench) -> float:
    """Read a device that has recovered; reacquiring it may take some attempts."""
    for _ in range(round(5 / _STEP_S)):
        try:
            return source.read()
        except ReadError:
            bench.clock.advance(_STEP_S)
    msg = f"{source.device.id} did not recover"
    raise AssertionError(msg)

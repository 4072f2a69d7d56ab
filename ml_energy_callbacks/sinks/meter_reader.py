"""Reads the exported figures of a meter; counters never decrease."""

import threading
from collections.abc import Mapping, Sequence
from weakref import ref

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.safe_text import describe
from ml_energy_callbacks.sinks.figures import Figure, Labels, read_figures


class MeterReader:
    """Reads the figures of a meter, from any thread.

    It does not keep the meter alive. It returns no figures if the meter no longer exists or was never started, and none in a
    fork of the measuring process. A meter that was stopped keeps its last figures.

    Args:
        meter: The meter.

    Raises:
        ConfigurationError: The argument is not a meter.
    """

    def __init__(self, meter: object) -> None:
        """Keep a weak reference to the meter."""
        if not isinstance(meter, EnergyMeter):
            msg = f"{describe(meter)} is not a meter; pass an EnergyMeter, such as the `meter` of a callback."
            raise ConfigurationError(msg)
        self._meter = ref(meter)
        self._lock = threading.Lock()
        self._highest: dict[tuple[Figure, Labels], float] = {}

    @property
    def in_use(self) -> bool:
        """Whether the meter is measuring or has not started yet."""
        meter = self._meter()
        return meter is not None and (meter.running or not meter.started)

    def read(self) -> Mapping[Figure, Sequence[tuple[Labels, float]]]:
        """Return the current values of every figure, each with its labels; no device is read.

        The energy since a device's last refresh is extrapolated, and that of phases is fitted, so either may turn out to be
        lower than it was reported: the counter then stays constant until the energy has caught up.
        """
        meter = self._meter()
        if meter is None or not meter.started or meter.forked:
            return {}
        with self._lock:
            try:
                figures = read_figures(meter.record)
            except Exception as error:  # noqa: BLE001 - the service's other metrics must still be exported
                meter.warn(f"The energy metrics could not be exported: {describe(error)}.")
                return {}
            return {
                figure: [(labels, self._keep_highest(figure, labels, value)) for labels, value in values]
                for figure, values in figures.items()
            }

    def _keep_highest(self, figure: Figure, labels: Labels, value: float) -> float:
        if not figure.counter:
            return value
        self._highest[figure, labels] = highest = max(value, self._highest.get((figure, labels), value))
        return highest

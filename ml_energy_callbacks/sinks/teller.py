"""What a sink tells of a meter: figures of its record as of now, in which no counter goes backwards."""

import threading
from collections.abc import Mapping, Sequence
from weakref import ref

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.sinks.figures import Figure, Labels, observe


class Teller:
    """Tell a meter's figures to whoever asks, from any thread.

    It keeps no meter alive: of one that is gone nothing is told, nor of one that was never started, nor in a fork of the
    process that measures. A meter that was stopped keeps its last figures.

    Args:
        meter: The meter.

    Raises:
        ConfigurationError: That is no meter.
    """

    def __init__(self, meter: object) -> None:
        """Look at the meter from now on."""
        if not isinstance(meter, EnergyMeter):
            msg = f"{meter!r} is no meter; give an EnergyMeter, such as the `meter` of a callback."
            raise ConfigurationError(msg)
        self._meter = ref(meter)
        self._lock = threading.Lock()
        self._told: dict[tuple[Figure, Labels], float] = {}

    @property
    def needed(self) -> bool:
        """Whether the meter measures, or may yet begin to."""
        meter = self._meter()
        return meter is not None and (meter.running or not meter.started)

    def tell(self) -> Mapping[Figure, Sequence[tuple[Labels, float]]]:
        """Return the values of every figure as of now, each with its labels; no device is read.

        What was used since a device's last refresh is extrapolated, and phases are fitted, so that either may turn out to be
        less than was told: a counter then stays at what it was until more has passed.
        """
        meter = self._meter()
        if meter is None or not meter.started or meter.forked:
            return {}
        with self._lock:
            try:
                figures = observe(meter.record)
            except Exception as error:  # noqa: BLE001 - the service's other metrics must not go with ours
                meter.warn(f"The record could not be told to those who watch the service: {error!r}.")
                return {}
            return {
                figure: [(labels, self._held(figure, labels, value)) for labels, value in values]
                for figure, values in figures.items()
            }

    def _held(self, figure: Figure, labels: Labels, value: float) -> float:
        if not figure.counter:
            return value
        self._told[figure, labels] = most = max(value, self._told.get((figure, labels), value))
        return most

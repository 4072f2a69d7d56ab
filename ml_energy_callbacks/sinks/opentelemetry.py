"""A meter's figures for OpenTelemetry: asynchronous instruments that are asked whenever metrics are exported."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

import ml_energy_callbacks
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.sinks.figures import FIGURES, Figure, Labels
from ml_energy_callbacks.sinks.teller import Teller

try:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
except ImportError as error:
    _msg = "ml_energy_callbacks.sinks.opentelemetry needs its API: pip install 'ml-energy-callbacks[opentelemetry]'"
    raise ImportError(_msg) from error

_ATTRIBUTES: Final = {"device": "hw.id", "kind": "hw.type", "name": "hw.name"}
_TYPES: Final = {"dram": "memory"}


class _Round:
    """One look at the meter for all instruments of an export, which OpenTelemetry asks one by one."""

    def __init__(self, teller: Teller) -> None:
        self.teller = teller
        self._lock = threading.Lock()
        self._told: Mapping[Figure, Sequence[tuple[Labels, float]]] = {}
        self._left: set[Figure] = set()

    def ask(self, figure: Figure, _: CallbackOptions) -> Iterator[Observation]:
        """Yield the values of a figure; whoever asks for the same one again begins the next round."""
        with self._lock:
            if figure not in self._left:
                self._told, self._left = self.teller.tell(), set(FIGURES)
            self._left.remove(figure)
            values = self._told.get(figure, ())
        for labels, value in values:
            yield Observation(value, _attributes(figure, labels))


# A provider's instruments cannot be taken out of it again.
_rounds: WeakKeyDictionary[MeterProvider, _Round] = WeakKeyDictionary()


def observe(meter: EnergyMeter, meter_provider: MeterProvider | None = None) -> None:
    """Tell a meter's figures whenever the provider's readers collect metrics; no device is read for it.

    The meter may be started later, and be stopped and started again. What is not known is absent. No meter is kept alive: of
    one that is gone nothing is told any more. Another meter takes the place of one that is gone or has stopped.

    Args:
        meter: The meter, such as a callback's ``meter``.
        meter_provider: The provider; None for the global one.

    Raises:
        ConfigurationError: That is no meter or no provider, or the provider's readers are told of a meter already.
    """
    teller = Teller(meter)
    provider = get_meter_provider() if meter_provider is None else _checked(meter_provider)
    known = _rounds.get(provider)
    if known is not None:
        if known.teller.needed:
            msg = "The provider is told of a meter already: stop that one first, or use one meter for all."
            raise ConfigurationError(msg)
        known.teller = teller
        return
    _rounds[provider] = each = _Round(teller)
    instruments = provider.get_meter("ml_energy_callbacks", ml_energy_callbacks.__version__)
    for figure in FIGURES:
        create = instruments.create_observable_counter if figure.counter else instruments.create_observable_gauge
        create(figure.name, [partial(each.ask, figure)], figure.unit, figure.help)


def _checked(provider: object) -> MeterProvider:
    if not isinstance(provider, MeterProvider):
        msg = f"{provider!r} is no meter provider; give a MeterProvider of opentelemetry, or none for the global one."
        raise ConfigurationError(msg)
    return provider


def _attributes(figure: Figure, labels: Labels) -> dict[str, str]:
    pairs = zip(figure.labels, labels, strict=True)
    known = {_ATTRIBUTES.get(label, f"ml.{label}"): value for label, value in pairs if value is not None}
    if "hw.type" in known:
        known["hw.type"] = _TYPES.get(known["hw.type"], known["hw.type"])
    return known

"""OpenTelemetry: asynchronous instruments whose values are read at each export."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

import ml_energy_callbacks
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.safe_text import describe
from ml_energy_callbacks.sinks.figures import FIGURES, Figure, Labels
from ml_energy_callbacks.sinks.meter_reader import MeterReader

try:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
except ImportError as error:
    _msg = "ml_energy_callbacks.sinks.opentelemetry requires its API: pip install 'ml-energy-callbacks[opentelemetry]'"
    raise ImportError(_msg) from error

_ATTRIBUTES: Final = {"device": "hw.id", "kind": "hw.type", "name": "hw.name"}
_TYPES: Final = {"dram": "memory"}


class _Export:
    """Reads the meter once for all instruments of an export, which OpenTelemetry calls one by one."""

    def __init__(self, reader: MeterReader) -> None:
        self.reader = reader
        self._lock = threading.Lock()
        self._values: Mapping[Figure, Sequence[tuple[Labels, float]]] = {}
        self._pending: set[Figure] = set()

    def observe_figure(self, figure: Figure, _: CallbackOptions) -> Iterator[Observation]:
        """Yield the values of a figure; a second call for the same figure starts the next export."""
        with self._lock:
            if figure not in self._pending:
                self._values, self._pending = self.reader.read(), set(FIGURES)
            self._pending.remove(figure)
            values = self._values.get(figure, ())
        for labels, value in values:
            yield Observation(value, _attributes(figure, labels))


# Instruments cannot be removed from a provider.
_exports: WeakKeyDictionary[MeterProvider, _Export] = WeakKeyDictionary()


def observe(meter: EnergyMeter, meter_provider: MeterProvider | None = None) -> None:
    """Export a meter's figures whenever the provider's readers collect metrics; no device is read.

    The meter can be started later, stopped, and started again. Unknown values are absent. The exporter does not keep the meter
    alive, and exports nothing once it no longer exists. Another meter replaces one that has stopped or no longer exists.

    Args:
        meter: The meter, such as a callback's ``meter``.
        meter_provider: The provider; None for the global one.

    Raises:
        ConfigurationError: The meter or the provider is not one, or the provider already exports a meter.
    """
    reader = MeterReader(meter)
    provider = get_meter_provider() if meter_provider is None else _check_provider(meter_provider)
    existing = _exports.get(provider)
    if existing is not None:
        if existing.reader.in_use:
            msg = "The provider already exports a meter: stop that meter first, or use one meter for all."
            raise ConfigurationError(msg)
        existing.reader = reader
        return
    _exports[provider] = export = _Export(reader)
    instruments = provider.get_meter("ml_energy_callbacks", ml_energy_callbacks.__version__)
    for figure in FIGURES:
        create = instruments.create_observable_counter if figure.counter else instruments.create_observable_gauge
        create(figure.name, [partial(export.observe_figure, figure)], figure.unit, figure.help)


def _check_provider(provider: object) -> MeterProvider:
    if not isinstance(provider, MeterProvider):
        shown = describe(provider)
        msg = f"{shown} is not a meter provider; pass a MeterProvider of opentelemetry, or omit it to use the global one."
        raise ConfigurationError(msg)
    return provider


def _attributes(figure: Figure, labels: Labels) -> dict[str, str]:
    pairs = zip(figure.labels, labels, strict=True)
    known = {_ATTRIBUTES.get(label, f"ml.{label}"): value for label, value in pairs if value is not None}
    if "hw.type" in known:
        known["hw.type"] = _TYPES.get(known["hw.type"], known["hw.type"])
    return known

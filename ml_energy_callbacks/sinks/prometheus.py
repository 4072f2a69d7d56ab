"""Prometheus: a collector that reads a meter at each scrape."""

from collections.abc import Iterator

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.safe_text import describe
from ml_energy_callbacks.sinks.figures import FIGURES, Figure
from ml_energy_callbacks.sinks.meter_reader import MeterReader

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    _msg = "ml_energy_callbacks.sinks.prometheus requires prometheus-client: pip install 'ml-energy-callbacks[prometheus]'"
    raise ImportError(_msg) from error

_UNITS = {"J": "joules", "s": "seconds", "g": "grams"}


class EnergyCollector(Collector):
    """Export a meter's figures at each scrape, without a thread or a server of its own; no device is read.

    The meter can be started later, stopped, and started again. Unknown values are absent. The collector does not keep the meter
    alive, and exports nothing once it no longer exists.

    Args:
        meter: The meter, such as a callback's ``meter``.
        registry: The registry to register with; ``registry.unregister(collector)`` removes the collector.

    Raises:
        ConfigurationError: The meter or the registry is not one, or the registry already contains the figures of a meter.
    """

    def __init__(self, meter: EnergyMeter, registry: CollectorRegistry = REGISTRY) -> None:
        """Register the collector."""
        self._reader = MeterReader(meter)
        checked = _check_registry(registry)
        try:
            checked.register(self)
        except ValueError:
            msg = "The registry already contains the figures of a meter: unregister that collector, or use one meter for all."
            raise ConfigurationError(msg) from None

    def describe(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield every metric without values, so that the registry knows the names."""
        return map(_make_family, FIGURES)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield every known metric with its current values."""
        for figure, values in self._reader.read().items():
            if values:
                family = _make_family(figure)
                for labels, value in values:
                    family.add_metric([label or "" for label in labels], value)
                yield family


def _check_registry(registry: object) -> CollectorRegistry:
    if not isinstance(registry, CollectorRegistry):
        shown = describe(registry)
        msg = f"{shown} is not a registry; pass a CollectorRegistry of prometheus_client, or omit it to use the default one."
        raise ConfigurationError(msg)
    return registry


def _make_family(figure: Figure) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if figure.counter else GaugeMetricFamily
    return kind(figure.prometheus, figure.help, labels=figure.labels, unit=_UNITS.get(figure.unit, ""))

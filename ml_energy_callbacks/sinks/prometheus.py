"""A meter's figures for Prometheus: a collector that is read at each scrape."""

from collections.abc import Iterator

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.sinks.figures import FIGURES, Figure
from ml_energy_callbacks.sinks.teller import Teller

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    _msg = "ml_energy_callbacks.sinks.prometheus needs its client: pip install 'ml-energy-callbacks[prometheus]'"
    raise ImportError(_msg) from error

_UNITS = {"J": "joules", "s": "seconds", "g": "grams"}


class EnergyCollector(Collector):
    """Tell a meter's figures at each scrape, with no thread and no server of its own; no device is read for it.

    The meter may be started later, and be stopped and started again. What is not known is absent. The collector keeps no meter
    alive: of one that is gone nothing is told any more.

    Args:
        meter: The meter, such as a callback's ``meter``.
        registry: The registry that it is put into; ``registry.unregister(collector)`` takes it out again.

    Raises:
        ConfigurationError: That is no meter or no registry, or the registry holds a meter's figures already.
    """

    def __init__(self, meter: EnergyMeter, registry: CollectorRegistry = REGISTRY) -> None:
        """Put it into the registry."""
        self._teller = Teller(meter)
        checked = _checked(registry)
        try:
            checked.register(self)
        except ValueError:
            msg = "The registry holds the figures of a meter already: unregister that collector, or use one meter for all."
            raise ConfigurationError(msg) from None

    def describe(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield every metric without its values, by which the registry knows their names."""
        return map(_family, FIGURES)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield every metric that is known, with its values as of now."""
        for figure, values in self._teller.tell().items():
            if values:
                family = _family(figure)
                for labels, value in values:
                    family.add_metric([label or "" for label in labels], value)
                yield family


def _checked(registry: object) -> CollectorRegistry:
    if not isinstance(registry, CollectorRegistry):
        msg = f"{registry!r} is no registry; give a CollectorRegistry of prometheus_client, or none for its own."
        raise ConfigurationError(msg)
    return registry


def _family(figure: Figure) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if figure.counter else GaugeMetricFamily
    return kind(figure.prometheus, figure.help, labels=figure.labels, unit=_UNITS.get(figure.unit, ""))

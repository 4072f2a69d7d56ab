"""A training of Lightning that Prometheus watches."""

from pathlib import Path
from typing import Any

from lightning_models import loader, module, trainer
from loads import steady
from prometheus_client import CollectorRegistry
from pytorch_lightning import Callback

from ml_energy_callbacks.lightning import EnergyCallback
from ml_energy_callbacks.sinks.prometheus import EnergyCollector


def test_a_training_is_scraped_while_it_runs_and_after_it(tmp_path: Path) -> None:
    backend = steady(100)
    (source,) = backend.sources
    callback = EnergyCallback(backends=[backend], verbose=False)
    registry = CollectorRegistry()
    EnergyCollector(callback.meter, registry)

    def samples() -> float | None:
        return registry.get_sample_value("ml_energy_samples_total", {"stage": "train"})

    seen = []

    class Scraper(Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            seen.append(samples())

    trainer(tmp_path, [callback, Scraper()]).fit(module(), loader(40))
    assert seen == [40, 80]
    assert samples() == callback.record.stages["train"].samples == 80
    labels = {"device": source.device.id, "kind": "gpu", "name": source.device.name, "provenance": "measured", "stage": "train"}
    joules = registry.get_sample_value("ml_energy_joules_total", labels)
    assert joules is not None
    assert joules > 0

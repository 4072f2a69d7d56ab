"""The record's epochs have what Keras logged, as its own history holds it."""

from pathlib import Path

import pytest
from frameworks.keras_loops import arrays, net, on_one_backend

from ml_energy_callbacks.keras import EnergyCallback


@on_one_backend
def test_epochs_have_the_metrics_that_keras_logged(tmp_path: Path) -> None:
    energy, model = EnergyCallback(output_dir=tmp_path, verbose=False), net()
    x, y = arrays(40)
    data = {"validation_data": (x, y), "validation_freq": 2}
    history = model.fit(x, y, batch_size=4, epochs=4, verbose=0, callbacks=[energy], **data).history
    tested = model.evaluate(x, y, verbose=0, callbacks=[energy], return_dict=True)
    found = {stage: [each.metrics for each in energy.record.epochs if each.stage == stage] for stage in energy.record.stages}
    names = {name for name in history if not name.startswith("energy/")}
    own = {name for name in names if not name.startswith("val_")}
    assert "loss" in own
    for name in own:
        assert [metrics[name] for metrics in found["train"]] == pytest.approx(history[name], rel=1e-6)
    assert [{*metrics} for metrics in found["train"]] == [own] * 4
    assert [{*metrics} for metrics in found["validate"]] == [names - own] * 2
    assert [metrics["val_loss"] for metrics in found["validate"]] == pytest.approx(history["val_loss"], rel=1e-6)
    assert found["test"] == [{name: pytest.approx(value, rel=1e-6) for name, value in tested.items()}]

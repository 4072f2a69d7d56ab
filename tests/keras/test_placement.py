"""Which kind of device a model is on, as each backend of Keras shows it."""

from types import SimpleNamespace
from typing import Any

import keras
import pytest

from ml_energy_callbacks.keras import placement


def _on_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a variable's value as the backend shows it on a GPU, where it has none."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch  # noqa: PLC0415 - the backend's own

        return SimpleNamespace(device=torch.device("cuda", 0))
    if backend == "jax":
        return SimpleNamespace(devices=lambda: [SimpleNamespace(platform="gpu", local_hardware_id=0)])
    import tensorflow as tf  # noqa: PLC0415 - as above

    for name in ("get_visible_devices", "list_physical_devices", "list_logical_devices"):
        monkeypatch.setattr(tf.config, name, lambda kind: ["a GPU"] if kind == "GPU" else [])
    monkeypatch.setattr(tf.config, "get_logical_device_configuration", lambda _: None)
    return SimpleNamespace(device="/job:localhost/replica:0/task:0/device:GPU:0")


def test_a_model_on_a_gpu_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = SimpleNamespace(variables=[SimpleNamespace(value=_on_gpu(monkeypatch))])
    assert placement.accelerator(model) == "gpu"


def test_a_model_on_the_processor_has_no_accelerator() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    assert placement.accelerator(model) is None
    assert placement.accelerator(keras.Sequential([keras.layers.Dense(2)])) is None  # it has no variables yet

"""The cost of predictions of Keras models."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference import Comparison, compare_models, profile_inference
from ml_energy_callbacks.inference.models import is_keras, is_torch


class Enough(Exception):  # noqa: N818 - no error
    """Ends a measurement that goes on for as long as it may."""


def first_round(measure: Callable[..., Any]) -> Any:
    """Measure until there is a figure for each, and return what is known then."""
    found: list[Any] = []

    def look(known: Any) -> None:
        found.append(known)
        if all(each.repeats for each in (known.models if isinstance(known, Comparison) else known.sizes)):
            raise Enough

    with pytest.raises(Enough):
        measure(progress=look, max_seconds=60)
    return found[-1]


def small(width: int) -> keras.Model:
    model = keras.Sequential([keras.layers.Input((16,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(3)])
    model.compile(loss="mse")
    return model


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    return float((outputs.argmax(1) == targets).mean())


def test_models_are_compared_and_their_files_weighed() -> None:
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(8, 16)).astype("float32"), rng.integers(0, 3, 8)) for _ in range(2)]
    models = {"wide": small(256), "narrow": small(8)}
    assert all(is_keras(model) and not is_torch(model) for model in models.values())
    comparison = first_round(partial(compare_models, models, data, accuracy))
    wide, narrow = comparison.models
    inputs, targets = (np.concatenate(part) for part in zip(*data, strict=True))
    assert wide.accuracy == pytest.approx(accuracy(models["wide"].predict_on_batch(inputs), targets))
    assert wide.size_bytes is not None
    assert narrow.size_bytes is not None
    assert wide.size_bytes > narrow.size_bytes > 1000
    for model in (wide, narrow):
        assert model.note is None or "Stopped after" in model.note
        assert model.repeats >= 1
        assert model.joules_per_sample is not None
        assert model.joules_per_sample.mean > 0


def test_a_model_of_several_outputs_is_refused() -> None:
    inputs = keras.layers.Input((16,))
    heads = [keras.layers.Dense(3)(inputs), keras.layers.Dense(2)(inputs)]
    data = [(np.zeros((2, 16), "float32"), np.zeros(2))]  # as many samples as outputs
    for outputs, kind in ((heads, "list"), ({"a": heads[0], "b": heads[1]}, "dict")):
        with pytest.raises(ConfigurationError, match=f"The model 'two' returns a {kind}; wrap it to return the predictions"):
            compare_models({"two": keras.Model(inputs, outputs)}, data, accuracy)


def test_a_model_is_profiled() -> None:
    profile = first_round(partial(profile_inference, small(8), lambda size: np.zeros((size, 16), "float32"), (1, 32)))
    for size in profile.sizes:
        assert size.repeats >= 1
        assert size.latency is not None
        assert 0 < size.latency.p50_s < 1

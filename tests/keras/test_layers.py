"""Times of the layers in real fits of Keras on torch, and why there are none on the other backends."""

from typing import Any

import keras
import numpy as np
import pytest
from loads import steady

from ml_energy_callbacks.keras import EnergyCallback

ON_TORCH = keras.backend.backend() == "torch"


def fitted(**options: Any) -> tuple[EnergyCallback, Any]:
    """Fit a small model, and return the callback and the model."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, name="out")(hidden))
    model.compile("sgd", "mse", jit_compile=False)
    energy = EnergyCallback(verbose=False, backends=[steady(360.0)], **options)
    x = np.arange(80, dtype="float32").reshape(20, 4) / 80
    model.fit(x, x[:, :1], batch_size=4, epochs=2, validation_data=(x, x[:, :1]), verbose=0, callbacks=[energy])
    return energy, model


@pytest.mark.skipif(not ON_TORCH, reason="only torch runs layers one by one")
def test_a_fit_times_its_layers_and_has_the_same_weights() -> None:
    (without, plain), (energy, model) = fitted(), fitted(layers_every_n_steps=2)
    assert without.layers is None
    assert all(np.array_equal(a, b) for a, b in zip(plain.get_weights(), model.get_weights(), strict=True))
    profile = energy.layers
    assert profile is not None
    assert profile.steps == 5
    assert [(layer.name, layer.calls) for layer in profile.layers] == [("hidden", 1), ("out", 1)]
    assert all(layer.forward_seconds and layer.backward_seconds for layer in profile.layers)


@pytest.mark.skipif(not ON_TORCH, reason="only torch runs layers one by one")
def test_hooks_of_a_timed_step_that_failed_go_with_the_next_look() -> None:
    class Interrupted(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.out = keras.layers.Dense(1)
            self.hooks: list[int] = []

        def call(self, x: Any) -> Any:
            self.hooks.append(len(self.out._forward_hooks))
            if self.hooks[-1]:
                raise KeyboardInterrupt
            return self.out(x)

    model = Interrupted()
    model.compile("sgd", "mse", jit_compile=False)
    energy = EnergyCallback(verbose=False, backends=[steady(360.0)], layers_every_n_steps=2)
    x = np.ones((20, 4), dtype="float32")
    model(x)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, x[:, :1], batch_size=4, verbose=0, callbacks=[energy])
    assert max(model.hooks) == 1
    assert energy.layers is not None  # Keras itself calls nothing after an exception
    assert not model.out._forward_hooks


@pytest.mark.skipif(ON_TORCH, reason="torch runs layers one by one")
def test_a_fused_step_has_no_layers_and_says_so() -> None:
    energy, _ = fitted(layers_every_n_steps=2)
    assert energy.layers is None
    assert any("layers_every_n_steps has no effect. Keras on " in text for text in energy.record.warnings)

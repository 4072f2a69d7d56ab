"""FLOPs that are counted in batches of Keras: nothing is left behind, and loops whose turns XLA does not count are unknown."""

from typing import Any

import keras
import numpy as np
import pytest
from frameworks.keras_loops import BACKEND, COUNTED_BY, arrays, net
from loads import steady

from ml_energy_callbacks.keras import EnergyCallback
from ml_energy_callbacks.keras.hlo import loops_over_products


def callback(**options: Any) -> EnergyCallback:
    return EnergyCallback(**{"verbose": False, "backends": [steady(360.0)], "count_flops": True, **options})


class Failing(keras.callbacks.Callback):
    """Fails before a batch."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch == self.batch:
            msg = "mine"
            raise RuntimeError(msg)


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_an_error_before_or_in_the_counted_batch_leaves_nothing_behind() -> None:
    model = net()
    with pytest.raises(RuntimeError, match="mine"):
        model.fit(*arrays(40), batch_size=4, verbose=0, callbacks=[callback(), Failing(1)])
    energy = callback()
    model.fit(*arrays(40), batch_size=4, verbose=0, callbacks=[energy])
    assert model.train_function.__name__ == "one_step_on_data"  # Keras's own
    assert energy.record.stages["train"].flops is not None

    def fail(index: int) -> None:
        if index == 1:
            msg = "mine"
            raise RuntimeError(msg)

    model.inside, model.count = fail, 0
    with pytest.raises(RuntimeError, match="mine"):
        model.fit(*arrays(40), batch_size=4, verbose=0, callbacks=[callback()])
    import torch  # noqa: PLC0415 - of this backend alone

    assert torch._C._len_torch_dispatch_stack() == 0


@pytest.mark.skipif(COUNTED_BY is None, reason="not counted")
def test_a_second_fit_of_a_model_is_counted_again() -> None:
    energy, model = callback(), net()
    for _ in range(2):
        model.fit(*arrays(8), batch_size=4, verbose=0, callbacks=[energy])
    model.predict(arrays(8)[0], batch_size=4, verbose=0, callbacks=[energy])
    train, predict = (energy.record.stages[name] for name in ("train", "predict"))
    assert train.flops is not None
    assert predict.flops is not None
    assert train.flops.method == predict.flops.method == COUNTED_BY
    assert train.flops.total == pytest.approx(16 * train.flops.per_sample)


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
@pytest.mark.parametrize("length", [0, 3])
def test_products_in_a_loop_are_found_in_a_program(length: int) -> None:
    import jax  # noqa: PLC0415 - of this backend alone

    weights = np.ones((8, 8), "float32")

    def run(x: Any) -> Any:
        x = jax.lax.fori_loop(0, 3, lambda _, value: value + 1, x @ weights)
        return jax.lax.scan(lambda carry, _: (carry @ weights, None), x, None, length=length)[0] if length else x

    program = jax.jit(run).lower(np.ones((2, 8), "float32")).as_text("hlo")
    assert " while(" in program
    assert loops_over_products(program) == bool(length)


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_a_recurrent_layer_is_unknown_with_jax() -> None:
    model = keras.Sequential([keras.layers.Input((4, 2)), keras.layers.SimpleRNN(3)])
    energy = callback()
    model.predict(np.zeros((8, 4, 2), "float32"), verbose=0, callbacks=[energy])
    assert energy.record.stages["predict"].flops is None
    assert [text for text in energy.record.warnings if "how often a loop of the model runs" in text]

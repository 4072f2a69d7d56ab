"""FLOPs that are counted from torch's operators: exact for known networks, or unknown; what runs stays the same bit for bit."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from frameworks.equality import plain
from lightning_models import loader, module, trainer
from loads import steady
from pytorch_lightning.callbacks import Callback as LightningCallback
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import register_flop_formula

from ml_energy_callbacks.frameworks.torch_flops import OperatorCounter
from ml_energy_callbacks.lightning import EnergyCallback

N, WIDTH = 4, 8


@pytest.fixture(autouse=True)
def nothing_was_compiled() -> None:
    """Let the process be as one in which torch.compile has not been used, whatever ran in it before."""
    dynamo: Any = sys.modules.get("torch._dynamo.utils")
    if dynamo is not None:
        dynamo.counters.clear()


@pytest.fixture(autouse=True)
def no_mode_is_left() -> Iterator[None]:
    yield
    assert torch._C._len_torch_dispatch_stack() == 0


def callback(**options: Any) -> EnergyCallback:
    return EnergyCallback(**{"verbose": False, "backends": [steady(360.0)], "count_flops": True, **options})


def inputs(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), requires_grad=True)


def network(seed_of: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    torch.manual_seed(5)
    return seed_of()


def conv_net() -> Any:
    net = network(
        lambda: torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 3, padding=1),
            torch.nn.BatchNorm2d(6),
            torch.nn.Dropout(0.4),
            torch.nn.Flatten(),
            torch.nn.Linear(6 * 64, 10),
        )
    )
    optimizer = torch.optim.AdamW(net.parameters())
    net(inputs(N, 3, 8, 8).detach()).logsumexp(1).sum().backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    return net.state_dict()


CONV, DENSE = 2 * N * 64 * 3 * 6 * 9, 2 * N * 6 * 64 * 10


def dropout_in_inference_mode() -> Any:
    net = network(
        lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(384, 10))
    )
    with torch.inference_mode():
        return functional.dropout(net(inputs(N, 3, 8, 8).detach()), 0.4)


def attention() -> Any:
    query = inputs(N, 2, 6, WIDTH)
    return torch.autograd.grad(functional.scaled_dot_product_attention(query, query, query).sum(), query)


def attention_with_dropout() -> Any:
    query = inputs(N, 2, 6, WIDTH)
    return torch.autograd.grad(functional.scaled_dot_product_attention(query, query, query, dropout_p=0.3).sum(), query)


def attention_in_inference_mode() -> Any:
    with torch.inference_mode():
        query = inputs(N, 2, 6, WIDTH).detach()
        return functional.scaled_dot_product_attention(query, query, query, is_causal=True)


SCORES = 2 * N * 2 * 6 * 6 * WIDTH
"""FLOPs of one of the two products of matrices in attention; backward has four, and one more where it repeats the scores."""


def checkpointed() -> Any:
    layer = network(lambda: torch.nn.Linear(WIDTH, WIDTH))
    found = checkpoint(lambda x: functional.dropout(layer(x), 0.4), inputs(N, WIDTH), use_reentrant=False)
    return torch.autograd.grad(found.sum(), [layer.weight])


def under_autocast() -> Any:
    layer = network(lambda: torch.nn.Linear(WIDTH, WIDTH))
    with torch.autocast("cpu", torch.bfloat16):
        return layer(inputs(N, WIDTH)).float()


def gradients_of_each_sample() -> Any:
    layer = network(lambda: torch.nn.Linear(WIDTH, 1))
    return torch.func.vmap(torch.func.grad(lambda x: layer(x).sum()))(inputs(N, WIDTH).detach())


SQUARE = 2 * N * WIDTH * WIDTH


@pytest.mark.parametrize(
    ("run", "flops"),
    [
        (conv_net, 2 * CONV + 3 * DENSE),  # the images need no gradient
        (dropout_in_inference_mode, CONV + DENSE),
        (attention, (2 + 5) * SCORES),
        (attention_with_dropout, (2 + 4) * SCORES),
        (attention_in_inference_mode, 2 * SCORES),
        (checkpointed, 3 * SQUARE),  # forward runs once more
        (under_autocast, SQUARE),
        (gradients_of_each_sample, 4 * N * WIDTH),
    ],
)
def test_known_networks_are_counted_exactly_and_run_the_same(run: Callable[[], Any], flops: int) -> None:
    torch.manual_seed(1)
    alone = plain(run()), plain(torch.get_rng_state())
    torch.manual_seed(1)
    with OperatorCounter() as counter:  # type: ignore[no-untyped-call]
        counted = plain(run())
    assert (counted, plain(torch.get_rng_state())) == alone
    assert (counter.flops, counter.reason) == (flops, None)


def recurrent() -> Any:
    return network(lambda: torch.nn.LSTM(WIDTH, WIDTH))(inputs(3, N, WIDTH))[0]


def fused_encoder() -> Any:
    with torch.inference_mode():
        return network(lambda: torch.nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True).eval())(inputs(2, N, WIDTH))


def matrix_times_vector() -> Any:
    return inputs(N, WIDTH) @ inputs(WIDTH)


@torch.library.custom_op("ml_energy_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x + x


@torch.library.custom_op("ml_energy_tests::thrice", mutates_args=())
def thrice(x: torch.Tensor) -> torch.Tensor:
    return x + x + x


@register_flop_formula(torch.ops.ml_energy_tests.thrice)
def broken_formula(*_: Any, **__: Any) -> int:
    return 1 // 0


def test_a_formula_that_is_registered_later_is_used() -> None:
    name = "ml_energy_tests::sum_of_squares"
    operator = torch.library.custom_op(
        name, lambda x: (x @ x.T).diagonal().sum(), mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    reasons = []
    for _ in range(2):
        with OperatorCounter() as counter:  # type: ignore[no-untyped-call]
            operator(inputs(N, WIDTH).detach())
        reasons.append((counter.reason is None, counter.flops))
        if len(reasons) == 1:
            register_flop_formula(torch.ops.ml_energy_tests.sum_of_squares)(lambda shape, **_: 2 * shape[0] * shape[1])
    assert reasons == [(False, 0), (True, 2 * N * WIDTH)]


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (recurrent, "there is no formula for the operator aten::.*rnn.*"),
        (fused_encoder, "there is no formula for the operator aten::_transformer_encoder_layer_fwd"),
        (matrix_times_vector, "there is no formula for the operator aten::mv"),
        (lambda: twice(inputs(N).detach()), "there is no formula for the operator ml_energy_tests::twice"),
        (
            lambda: thrice(inputs(N).detach()),
            "the formula for the operator ml_energy_tests.thrice.default failed .ZeroDivisionError.*",
        ),
    ],
    ids=["rnn", "encoder", "vector", "no-formula", "broken-formula"],
)
def test_operators_without_a_formula_make_them_unknown_and_run_the_same(run: Callable[[], Any], reason: str) -> None:
    torch.manual_seed(1)
    alone = plain(run())
    torch.manual_seed(1)
    with OperatorCounter() as counter:  # type: ignore[no-untyped-call]
        assert plain(run()) == alone
    assert counter.reason is not None
    assert re.fullmatch(reason, counter.reason)


def test_each_stage_is_counted_in_one_batch(tmp_path: Path) -> None:
    energy = callback(flops_per_sample={"test": 1e6})
    t, m = trainer(tmp_path, [energy]), module()
    t.fit(m, loader(42), loader(10, 5))
    t.test(m, loader(12, 5), verbose=False)
    t.predict(m, loader(6))
    found = {name: stage.flops and (stage.flops.method, stage.flops.total) for name, stage in energy.record.stages.items()}
    assert found == {
        "other": None,
        "sanity_check": None,
        "train": ("torch operators", 2 * 42 * 32),
        "validate": ("torch operators", 2 * 10 * 16),
        "test": ("given", 12 * 1e6),
        "predict": ("torch operators", 6 * 16),
    }
    assert not [text for text in energy.record.warnings if "FLOPs" in text]


def test_a_second_fit_with_another_model_counts_its_own(tmp_path: Path) -> None:
    energy = callback()
    wide = module()
    wide.layer = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 1))
    for model in (module(), wide):
        trainer(tmp_path, [energy], max_epochs=1).fit(model, loader(40))
    flops = energy.record.stages["train"].flops
    assert flops is not None
    assert flops.total == 40 * 32 + 40 * (2 * 128 + 3 * 16)


def unknown(record: Any, stage: str = "train") -> str:
    """Return the reason why FLOPs are unknown, and check that they are."""
    assert record.stages[stage].flops is None
    (text,) = [text for text in record.warnings if text.startswith(f"FLOPs of {stage} are unknown, as ")]
    assert text.endswith(": give flops_per_sample.")
    return str(text)


class Own(torch.nn.Module):
    """A module of the user's, which torch.compile compiles, as it does not torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x)


@pytest.mark.parametrize("way", ["function", "module"])
def test_what_is_compiled_stays_so_and_is_unknown(tmp_path: Path, way: str) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    m = module()
    m.layer = Own()
    if way == "module":
        m.layer.compile(backend=backend)
    else:
        m.layer.forward = torch.compile(m.layer.forward, backend=backend)
    energy = callback()
    trainer(tmp_path, [energy], max_epochs=1).fit(m, loader(40))
    assert graphs
    assert "torch.compile" in unknown(energy.record)


def test_the_samples_of_the_batch_have_to_be_known(tmp_path: Path) -> None:
    energy = callback(batch_size_fn=lambda _: 1 // 0)
    trainer(tmp_path, [energy], max_epochs=1).fit(module(), loader(40))
    assert "the number of samples of the batch is unknown" in unknown(energy.record)


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_an_exception_in_the_counted_batch_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    m, energy = module(), callback()

    def fail(batch: Any, batch_idx: int) -> Any:
        if batch_idx == 1:
            assert torch._C._len_torch_dispatch_stack() == 1
            raise error
        return m._loss(batch)

    m.training_step = fail
    with pytest.raises((RuntimeError, KeyboardInterrupt, SystemExit)):
        trainer(tmp_path, [energy], max_epochs=1).fit(m, loader(40))
    assert torch._C._len_torch_dispatch_stack() == 0
    assert energy.record.stages["train"].flops is None


def test_an_epoch_that_ends_at_the_start_of_the_counted_batch_leaves_nothing_behind(tmp_path: Path) -> None:
    m, energy = module(), callback()
    m.on_train_batch_start = lambda batch, batch_idx: -1 if batch_idx == 1 else None
    entered: list[int] = []
    m.on_train_epoch_end = lambda: entered.append(torch._C._len_torch_dispatch_stack())
    trainer(tmp_path, [energy]).fit(m, loader(40))
    assert entered == [0, 0]
    assert energy.record.stages["train"].flops is None


class Passing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode of the user's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Overlapping(LightningCallback):
    """Enters a mode before each batch, and leaves it after the batch."""

    def __init__(self) -> None:
        self.mode: Any = None

    def on_train_batch_start(self, *_: Any) -> None:
        self.mode = Passing()  # type: ignore[no-untyped-call]
        self.mode.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        assert torch.utils._python_dispatch._get_current_dispatch_mode() is self.mode
        self.mode.__exit__(None, None, None)


def test_another_mode_that_was_entered_in_the_batch_is_left_by_its_owner(tmp_path: Path) -> None:
    energy = callback()
    trainer(tmp_path, [energy, Overlapping()], max_epochs=1).fit(module(), loader(40))
    flops = energy.record.stages["train"].flops
    assert flops is not None
    assert flops.per_sample == 32

"""Energy and time of the layers of torch modules: planted costs in virtual time, and real modules on the processor."""

import contextlib
import copy
import json
import pickle
import random
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import lightning_models
import numpy as np
import pytest
import torch
from inference_world import World
from lightning_models import loader, trainer
from loads import steady
from torch import nn
from torch.utils.checkpoint import checkpoint

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference import LayerProfile, LayerTimer, profile_layers
from ml_energy_callbacks.inference.layers.calls import Call, record_calls
from ml_energy_callbacks.inference.layers.costs import layer_fields
from ml_energy_callbacks.inference.layers.measure import Measured, measure_layers
from ml_energy_callbacks.inference.layers.stopwatch import HostTiming, Stopwatch
from ml_energy_callbacks.inference.layers.tree import find_layers
from ml_energy_callbacks.lightning import EnergyCallback
from ml_energy_callbacks.record.load import dump_json

STEP_S = 0.04


class Spend(torch.autograd.Function):
    """Uses energy in both passes."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, work: Callable[[float], None]) -> torch.Tensor:
        ctx.work = work
        work(1 / 3)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        ctx.work(2 / 3)
        return gradient, None


class Costly(nn.Module):
    """Has a planted time and power."""

    def __init__(self, world: World, share: float, watts: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.joules = STEP_S * share * watts
        self.work = lambda part: world.work(STEP_S * share * part, watts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spent: torch.Tensor = Spend.apply(x * self.weight, self.work)
        return spent


class Planted(nn.Module):
    """A network whose layers differ in time and power: the largest in time is not the largest in energy."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.embed = Costly(world, 0.08, 150.0)
        self.blocks = nn.ModuleList(
            nn.Sequential(Costly(world, share, watts), Costly(world, 0.1, 350.0))
            for share, watts in ((0.3, 200.0), (0.2, 420.0))
        )
        self.head = Costly(world, 0.05, 400.0)
        self.tiny = Costly(world, 0.001, 400.0)
        self.outside = Costly(world, 0.1, 250.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        outside: torch.Tensor = Spend.apply(self.tiny(self.head(x)), self.outside.work)
        return outside

    def truths(self) -> dict[str, float]:
        """Return the energy of each layer in J."""
        found = {name: part.joules for name, part in self.named_modules() if isinstance(part, Costly)}
        for i in range(2):
            found[f"blocks.{i}"] = found[f"blocks.{i}.0"] + found[f"blocks.{i}.1"]
        del found["outside"]
        return found


@cache
def planted_fields(seed: int, max_seconds: float = 600.0) -> tuple[Planted, dict[str, Any]]:
    """Measure a network with known costs."""
    world = World(seed)
    module = Planted(world)
    layers = find_layers(module, 2)
    step = Call(module, (torch.ones(2),), {}, backward=True)
    measured = Measured(layers, record_calls(layers, step))
    measure_layers(
        step,
        measured,
        HostTiming(world.clock),
        world.bench,
        relative_width=0.05,
        max_seconds=max_seconds,
        seed=seed,
        progress=lambda _: None,
    )
    return module, layer_fields(measured)


def test_planted_costs_are_found_in_their_order(*, full: bool) -> None:
    seeds = 20 if full else 2
    held = count = 0
    for seed in range(seeds):
        module, fields = planted_fields(seed)
        truths = module.truths()
        layers = {layer.name: layer for layer in fields["layers"]}
        top = [name for name in truths if name in {"embed", "blocks.0", "blocks.1", "head"}]
        assert sorted(top, key=truths.__getitem__) == sorted(top, key=lambda name: layers[name].joules or 0.0)
        whole = sum(truths[name] for name in ("embed", "blocks.0", "blocks.1", "head", "tiny")) + module.outside.joules
        for name in truths:
            layer = layers[name]
            if name == "tiny":
                assert layer.joules is None
                assert (layer.low_joules, layer.high_joules) == (0.0, fields["rest"].high_joules)
                assert layer.reason is not None
                assert "too little to measure" in layer.reason
                continue
            assert layer.joules is not None
            assert layer.low_joules is not None
            assert layer.high_joules is not None
            if truths[name] >= 0.05 * whole:
                assert layer.joules == pytest.approx(truths[name], rel=0.1), name
            held += layer.low_joules <= truths[name] <= layer.high_joules
            count += 1
        parts = [layer.joules for layer in layers.values() if layer.depth == 1 and layer.joules is not None]
        assert sum(parts) + fields["rest"].joules == pytest.approx(fields["whole"].joules, rel=1e-9)
        assert fields["whole"].joules == pytest.approx(whole, rel=0.05)
        assert fields["rest"].low_joules <= module.outside.joules + truths["tiny"] <= fields["rest"].high_joules
        assert fields["notes"] == []
    assert held >= 0.9 * count - 1


def test_times_of_layers_are_those_of_the_clock() -> None:
    _, fields = planted_fields(3, max_seconds=1.0)
    layers = {layer.name: layer for layer in fields["layers"]}
    block = layers["blocks.0"]
    assert block.forward_seconds == pytest.approx(0.4 * STEP_S / 3, rel=1e-3)
    assert block.backward_seconds == pytest.approx(0.4 * STEP_S * 2 / 3, rel=1e-3)
    assert layers["blocks.0.0"].seconds == pytest.approx(0.3 * STEP_S, rel=1e-3)
    assert fields["rest"].seconds == pytest.approx(0.1 * STEP_S, rel=1e-3)
    assert fields["whole"].seconds == pytest.approx(0.931 * STEP_S, rel=1e-3)
    assert (block.joules, block.reason) == (None, "Too few blocks were measured; raise max_seconds.")


# ---------------------------------------------------------------------------------------------------- real modules


class Small(nn.Module):
    """Has what changes in a step: running statistics, a counter, dropout, operations in place, and three kinds of chance."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout()
        self.head = nn.Linear(16, 4)
        self.unused = nn.Linear(16, 4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen += 1
        noise = random.random() + float(np.random.rand())  # noqa: NPY002 - what modules of users may do
        return {"scores": self.head(self.dropout(self.features(x))) * scale + noise}


def inputs() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(8, 8), "scale": torch.ones(())}


def bits(module: nn.Module) -> dict[str, Any]:
    """Return everything about a module that a measurement could change."""
    return {
        "state": {name: value.clone() for name, value in module.state_dict().items()},
        "gradients": {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()},
        "identity": [id(each) for each in (*module.parameters(), *module.buffers())],
        "modes": [part.training for part in module.modules()],
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        "chance": [torch.get_rng_state(), np.random.get_state()[1], random.getstate()],  # noqa: NPY002 - as above
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool((a == b).all()) if isinstance(a, torch.Tensor | np.ndarray) else bool(a == b)


@pytest.fixture(scope="module")
def small() -> tuple[Small, dict[str, torch.Tensor], list[Any], LayerProfile, list[LayerProfile]]:
    """Return a real module that was profiled for a moment, with what it was before and after."""
    module, given, told = Small(), inputs(), list[LayerProfile]()
    module(**given)["scores"].sum().backward()
    module.dropout.eval()
    states = [(bits(module), {name: value.clone() for name, value in given.items()})]
    profile = profile_layers(module, given, max_seconds=2, backends=[steady(100.0)], progress=told.append)
    states.append((bits(module), given))
    return module, given, states, profile, told


def test_a_profile_leaves_module_inputs_and_chance_as_they_were(small: Any) -> None:
    _, _, (before, after), _, _ = small
    assert same(before[0], after[0])
    assert same(before[1], after[1])


def test_state_comes_back_after_an_error_in_the_measurement() -> None:
    module, given = Small(), inputs()
    before = bits(module)

    def stop(_: LayerProfile) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile_layers(module, given, max_seconds=5, backends=[steady(100.0)], progress=stop)
    assert same(before, bits(module))


@pytest.mark.parametrize("passes", [1, 3, 7, 9], ids=["tried", "warming up", "timed", "timed again"])
@pytest.mark.parametrize("backward", [False, True])
def test_an_interruption_leaves_no_hook(passes: int, *, backward: bool) -> None:
    class Interrupted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 1)
            self.left = passes

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.head(x)
            if backward:
                x.register_hook(lambda _: self.interrupt())
            else:
                self.interrupt()
            return x

        def interrupt(self) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    module, given = Interrupted(), torch.randn(2, 8)
    before = bits(module)
    with pytest.raises(KeyboardInterrupt):
        profile_layers(module, given, max_seconds=5, backends=[steady(100.0)])
    assert same(before, bits(module))


def test_layers_of_a_real_module_have_times_and_operations(small: Any) -> None:
    _, _, _, profile, told = small
    names = [layer.name for layer in profile.layers]
    assert names == ["features", "features.0", "features.1", "features.2", "dropout", "head"]  # what is not called is absent
    layers = {layer.name: layer for layer in profile.layers}
    assert (layers["head"].forward_flops, layers["head"].backward_flops) == (2 * 8 * 16 * 4, 2 * 2 * 8 * 16 * 4)
    assert layers["features.0"].backward_flops == 2 * 8 * 8 * 16  # nobody needs the gradient of the inputs
    assert layers["features.2"].flops is None
    assert profile.whole.flops == sum(layers[name].flops for name in ("features", "head"))
    for layer in profile.layers:
        assert layer.forward_seconds > 0
        assert layer.seconds == pytest.approx(layer.forward_seconds + layer.backward_seconds)
        assert (layer.backward_seconds > 0) == (layer.name != "dropout")  # which is in eval mode
    top = [layer for layer in profile.layers if layer.depth == 1]
    assert sum(layer.seconds for layer in top) + profile.rest.seconds == pytest.approx(profile.whole.seconds)
    assert sum(layer.seconds for layer in profile.layers if layer.depth == 2) <= layers["features"].seconds
    assert told
    assert [one.blocks for one in told] == sorted(one.blocks for one in told)
    assert told[-1].blocks == profile.blocks


def test_layers_of_several_inputs_run_forward_alone() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = nn.Linear(4, 4)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            modes.add(torch.is_grad_enabled())
            out: torch.Tensor = self.first(a) + self.second(self.second(b))
            return out

    modes: set[bool] = set()
    profile = profile_layers(Pair(), (torch.randn(2, 4),) * 2, backward=False, max_seconds=0.5, backends=[])
    assert modes == {False}
    found = [(layer.name, layer.calls, layer.backward_seconds) for layer in profile.layers]
    assert found == [("first", 1, 0), ("second", 2, 0)]
    assert profile.layers[1].forward_flops == 2 * (2 * 2 * 4 * 4)
    assert profile.provenance is None
    assert profile.whole.joules is None
    assert profile.whole.reason in {"No device could be read.", "Too few blocks were measured; raise max_seconds."}  # by speed


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (3, {}, "The module is a int; pass a torch module."),
        (nn.Linear(8, 1), {}, "has no layers inside"),
        (nn.Sequential(nn.Linear(8, 1)), {"depth": 0}, "depth is 0; give a whole number"),
        (nn.Sequential(nn.Linear(8, 1)), {"depth": True}, "depth is True"),
        (nn.Sequential(nn.Linear(8, 1)), {"backward": 1}, "backward is 1; give True"),
        (nn.Sequential(nn.Linear(8, 1)), {"max_seconds": -1}, "max_seconds is -1"),
        (nn.Sequential(nn.Linear(8, 1)), {"relative_width": 2}, "relative_width is 2"),
        (nn.Sequential(nn.ReLU()), {}, "set backward=False"),
        (nn.Sequential(nn.Linear(7, 1)), {}, "Sequential failed on example_inputs (RuntimeError"),
        (nn.Sequential(nn.Linear(8, 1, device="meta")), {}, "are on cpu, meta; layers are timed"),
        (nn.Sequential(nn.LazyLinear(1)), {}, "lazy layers without weights yet; call it once"),
        (nn.ModuleDict({"a": nn.Linear(8, 1)}), {}, "ModuleDict failed on example_inputs"),
        (torch.compile(nn.Sequential(nn.Linear(8, 1)), backend="eager"), {}, "compiled by torch.compile"),
        (nn.DataParallel(nn.Sequential(nn.Linear(8, 1))), {}, "pass the module inside of it"),
    ],
)
def test_what_cannot_be_profiled_is_refused_in_a_sentence(module: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        profile_layers(module, torch.randn(2, 8), **options)
    assert message in str(caught.value)


def test_a_module_compiled_in_place_has_no_layers() -> None:
    module = nn.Sequential(nn.Sequential(nn.Linear(8, 1)))
    module[0].compile(backend="eager")
    with pytest.raises(ConfigurationError, match=r"compiled by torch\.compile"):
        LayerTimer(module)


# ---------------------------------------------------------------------------------------------------- what is shown


@pytest.fixture(scope="module")
def shown() -> LayerProfile:
    """Return the profile of the planted network."""
    _, fields = planted_fields(0)
    return LayerProfile(
        module="Planted<b>",
        method="repetition",
        provenance="measured",
        relative_uncertainty=0.05,
        devices=["nvml:0"],
        **fields,
    )


def test_a_table_fits_its_width_and_leaves_out_the_least_important_columns(shown: LayerProfile) -> None:
    narrow, wide = shown.to_text(80), shown.to_text(120)
    for text, width in ((narrow, 80), (wide, 120)):
        assert max(map(len, text.splitlines())) <= width
        assert "Most energy: blocks.1 (Sequential)" in text
        assert "Joules are measured ±5 % (nvml:0)." in text
        assert "  blocks.0.1" in text
        assert "95 % interval" in text
        assert "\n rest" in text
    assert "Costly" in wide
    assert "tiny: It takes <1 % of the time" in wide
    assert json.loads(dump_json(shown))["layers"][0]["name"] == "embed"
    assert shown.to_dict()["rest"]["name"] == "rest"


def test_a_notebook_and_a_page_show_the_layers_inside_of_each_other(shown: LayerProfile, tmp_path: Any) -> None:
    html = shown._repr_html_()
    assert "Planted&lt;b&gt;" in html
    assert "Planted<b>" not in html
    assert "<svg" in html
    assert html.count('class="hover"') == 10  # the step, the rest, and the layers but the one whose energy is not known
    shown.plot().save(tmp_path / "layers.html")
    assert "blocks.1.0" in (tmp_path / "layers.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------- training


class LateTiming(HostTiming):
    """Stamps that are known once the device gets there."""

    reached = 0

    def known(self, stamp: int) -> bool:
        return stamp <= self.reached


def test_steps_count_once_the_device_has_completed_them() -> None:
    module, given, timing = Small(), inputs(), LateTiming()
    stopwatch = Stopwatch(find_layers(module, 1), timing)
    ends = []
    for _ in range(2):
        stopwatch.start()
        module(**given)["scores"].sum().backward()
        stopwatch.stop()
        ends.append(timing.stamp())
    found = []
    for timing.reached in (0, *ends):
        stopwatch.resolve()
        found.append(stopwatch.steps)
    assert found == [0, 1, 2]
    assert [times.calls for times in stopwatch.times] == [2, 2, 2, 0]


def test_an_error_in_a_hook_ends_the_timing_of_a_step_and_not_the_step() -> None:
    stamps = iter([0, 1, 2])  # and then an error
    module, given = Small(), inputs()
    stopwatch = Stopwatch(find_layers(module, 1), HostTiming(lambda: next(stamps)))
    stopwatch.start()
    module(**given)["scores"].sum().backward()
    stopwatch.stop()
    assert stopwatch.steps == 0
    assert isinstance(stopwatch.error, StopIteration)
    assert all(parameter.grad is not None for parameter in module.head.parameters())


def test_an_error_in_the_backward_pass_does_not_reach_it() -> None:
    stamps = iter([0, *range(8)])  # the step's begin, both ends of four calls, and then an error
    module, given = Small(), inputs()
    stopwatch = Stopwatch(find_layers(module, 2)[:4], HostTiming(lambda: next(stamps)))
    stopwatch.start()
    module(**given)["scores"].sum().backward()
    stopwatch.stop()
    assert isinstance(stopwatch.error, StopIteration)
    assert stopwatch.steps == 0
    assert all(parameter.grad is not None for parameter in module.features.parameters())


def test_a_layer_with_an_output_that_nobody_uses_has_a_backward_pass() -> None:
    class Outputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(8, 8)
            self.used = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.unused(x), self.used(x)

    module = nn.Sequential(nn.Linear(8, 8), Outputs())
    timer = LayerTimer(module, every_n_steps=1)
    for _ in range(3):
        with timer.step():
            module(torch.randn(2, 8))[1].sum().backward()
    backward = {layer.name: layer.backward_seconds or 0.0 for layer in timer.profile().layers}
    assert backward["1"] > backward["1.used"] / 2 > 0
    assert backward["1.unused"] == 0


SLOW_S = 0.01


class Slow(nn.Module):
    """Takes its time in the forward pass alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(SLOW_S)
        return x.relu()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_repeats_a_layer_in_its_backward_pass(*, reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(64, 64)
            self.second = nn.Sequential(nn.Linear(64, 64), Slow(), nn.Linear(64, 64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            repeated: torch.Tensor = checkpoint(self.second, self.first(x), use_reentrant=reentrant)
            return repeated

    module, given = Checkpointed(), torch.randn(512, 64)
    timer = LayerTimer(module, depth=1, every_n_steps=1)
    for _ in range(3):
        with timer.step():
            module(given).sum().backward()
    first, second = timer.profile().layers
    assert (first.calls, second.calls) == (1, 1)
    assert first.backward_seconds
    assert (second.backward_seconds == 0) == reentrant  # which has no graph of it
    if not reentrant:
        assert second.backward_seconds > SLOW_S


def trained(every: int | None, *, steps: int = 7, fails_at: int | None = None) -> tuple[Small, list[int], LayerTimer | None]:
    """Train, and return the module, the number of hooks in each step, and the timer."""
    torch.manual_seed(0)
    module, hooks = Small(), []
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    timer = None if every is None else LayerTimer(module, every_n_steps=every)
    for number in range(1, steps + 1):
        with contextlib.suppress(ArithmeticError), contextlib.nullcontext() if timer is None else timer.step():
            hooks.append(sum(bits(module)["hooks"]))
            outputs = module(**inputs())["scores"]
            if number == fails_at:
                raise ArithmeticError
            (outputs**2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return module, hooks, timer


def test_hooks_are_there_in_timed_steps_alone_and_change_no_weight() -> None:
    module, hooks, timer = trained(3)
    assert [count > 0 for count in hooks] == [False, False, True, False, False, True, False]
    assert sum(bits(module)["hooks"]) == 0
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - as above
    assert timer is not None
    profile = timer.profile()
    assert profile.steps == 2
    assert [layer.name for layer in profile.layers] == [
        "features",
        "features.0",
        "features.1",
        "features.2",
        "dropout",
        "head",
    ]
    assert all(layer.forward_seconds > 0 and layer.backward_seconds > 0 for layer in profile.layers)
    assert profile.rest.seconds > 0  # the optimizer
    assert profile.method == "time"
    assert profile.provenance is None
    assert "Most time: " in profile.to_text()


def test_a_copy_of_a_network_made_in_a_timed_step_is_not_timed() -> None:
    module, given = Small(), inputs()
    stopwatch = Stopwatch(find_layers(module, 1), HostTiming())
    vars(stopwatch)["device"] = (torch.cuda, Lock())  # neither can be copied, as what times a GPU
    stopwatch.start()
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]  # noqa: S301 - made above
    stopwatch.stop()
    for each in copies:
        each(**given)["scores"].sum().backward()
    assert [times.calls for times in stopwatch.times] == [0, 0, 0, 0]


def test_timed_training_has_the_weights_of_an_untimed_one() -> None:
    states = []
    for every in (None, 1):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - as above
        states.append(trained(every)[0].state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_a_step_that_fails_is_left_out() -> None:
    module, _, timer = trained(2, steps=4, fails_at=2)
    assert timer is not None
    assert sum(bits(module)["hooks"]) == 0
    assert timer.profile().steps == 1
    assert "lower the number of steps" in trained(100)[2].profile().to_text(120)  # type: ignore[union-attr]


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_a_wrong_number_of_steps_is_refused(every: Any) -> None:
    with pytest.raises(ConfigurationError, match="every_n_steps is"):
        LayerTimer(nn.Sequential(nn.Linear(2, 2)), every_n_steps=every)
    with pytest.raises(ConfigurationError, match="layers_every_n_steps is"):
        EnergyCallback(layers_every_n_steps=every)


def test_a_fit_times_its_layers(tmp_path: Path) -> None:
    weights = []
    for options in ({}, {"layers_every_n_steps": 3}):
        torch.manual_seed(0)
        energy = EnergyCallback(verbose=False, backends=[steady(360.0)], **options)
        model = lightning_models.module()
        trainer(tmp_path, [energy], max_epochs=2).fit(model, loader(), loader())
        weights.append(model.layer.weight)
        assert (energy.layers is None) == (not options)
    assert torch.equal(*weights)
    assert not model.layer._forward_hooks
    profile = energy.layers
    assert profile is not None
    assert profile.steps == 20 // 3
    assert [layer.name for layer in profile.layers] == ["layer"]
    compute = energy.record.stages["train"].phases["compute"]
    if compute.joules is not None and compute.seconds:
        assert profile.whole.joules == pytest.approx(compute.joules / compute.seconds * profile.whole.seconds)
        assert profile.provenance == "estimated"
        assert "The energy is divided by time" in profile.notes[0]
    else:
        assert profile.whole.reason == compute.reason


def test_a_compiled_model_is_trained_without_times_of_layers(tmp_path: Path) -> None:
    energy = EnergyCallback(verbose=False, backends=[steady(360.0)], layers_every_n_steps=1)
    model = lightning_models.module()
    model.layer.compile(backend="eager")
    trainer(tmp_path, [energy], max_epochs=1).fit(model, loader())
    assert energy.layers is None
    assert [text for text in energy.record.warnings if "layers_every_n_steps has no effect" in text and "torch.compile" in text]

"""Profiles of a callable and comparisons of callables, as users start them, in real time."""

import json
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import hide, ml_energy
from lateness import Lateness
from rich.console import Console

from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError, EnergyError
from ml_energy_callbacks.inference import (
    BatchCost,
    Comparison,
    Cost,
    Interval,
    ModelCost,
    Profile,
    compare_models,
    profile_inference,
)
from ml_energy_callbacks.inference.compare import _mark_pareto
from ml_energy_callbacks.inference.models import is_out_of_memory
from ml_energy_callbacks.inference.plot import _draw_limit, plot_comparison, plot_profile
from ml_energy_callbacks.inference.profile import _rank_sizes
from ml_energy_callbacks.inference.results import Difference
from ml_energy_callbacks.inference.table import render_comparison, render_profile
from ml_energy_callbacks.record.load import dump_json
from ml_energy_callbacks.record.schema import LatencyRecord
from ml_energy_callbacks.report.picture import check_picture
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter

IDLE_WATTS, BUSY_WATTS = 50.0, 250.0
BLOCK_S = 0.5
"""Five refreshes, as if of 0.1 s each."""
MORE_SECONDS = (10, 20, 40)
"""Where other work on the machine leaves a difference undecided, more seconds are given, as the report advises."""


def scripted() -> tuple[Callable[[Sequence[int]], list[int]], ScriptedBackend]:
    """Return a model that takes 4 ms and 1 ms for each sample, and the device that it works on."""
    curve = PowerCurve(monotonic_clock, IDLE_WATTS)

    def predict(batch: Sequence[int]) -> list[int]:
        curve.set(BUSY_WATTS)
        end = monotonic_clock() + (4 + len(batch)) * 1_000_000
        while monotonic_clock() < end:
            time.sleep(0.0005)
        curve.set(IDLE_WATTS)
        return [value % 2 for value in batch]

    return predict, ScriptedBackend([ScriptedCounter(curve, monotonic_clock, period_s=0.02)])


def shown(part: Any, width: int = 80) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(part)
    return capture.get()


def zeros(size: int) -> list[int]:
    return [0] * size


def test_a_profile_tells_what_a_sample_costs_at_each_batch_size() -> None:
    predict, backend = scripted()
    for seconds in MORE_SECONDS:
        told: list[Profile] = []
        with Lateness() as late:
            profile = profile_inference(predict, zeros, (1, 16), max_seconds=seconds, backends=[backend], progress=told.append)
        if profile.best is not None:
            break
    edges = 2 * late.seconds / BLOCK_S
    assert profile.provenance == "measured"
    assert profile.devices == ["scripted:0"]
    assert profile.relative_uncertainty == 0
    assert profile.idle_watts is not None
    assert profile.idle_watts.mean == pytest.approx(IDLE_WATTS, rel=0.02 + edges)
    for size, latency in zip(profile.sizes, (0.005, 0.02), strict=True):
        assert size.repeats >= 1
        assert size.latency is not None
        assert latency < size.latency.p50_s * 1.01 < 2 * latency
        assert size.latency.p50_s <= size.latency.p95_s <= size.latency.p99_s
        assert size.joules_per_sample is not None
        assert size.joules_per_sample_above_idle is not None
        assert size.samples_per_second is not None
        busy = size.joules_per_sample.mean * size.samples_per_second.mean
        assert busy == pytest.approx(BUSY_WATTS, rel=0.05 + edges)
        idle = size.joules_per_sample.mean - size.joules_per_sample_above_idle.mean
        assert idle * size.samples_per_second.mean == pytest.approx(IDLE_WATTS, rel=0.03 + edges)
        assert size.wh_per_1000_samples == pytest.approx(size.joules_per_sample.mean / 3.6)
    assert [size.repeats >= 2 for size in profile.sizes] == [True, True]
    assert profile.best == 16
    assert profile.alike == []
    assert seconds < profile.seconds < 2 * seconds
    assert [sum(size.repeats for size in one.sizes) for one in told][:3] == [0, 0, 1]  # two blocks warm up
    table = shown(render_profile(profile))
    assert all(
        word in table
        for word in ("best", "measured ±0 % (scripted:0)", "Lowest energy per sample: batch size 16.", "Idle power:")
    )
    assert max(len(line) for line in table.splitlines()) <= 80
    assert json.loads(dump_json(profile))["sizes"][1]["batch_size"] == 16


def test_the_best_batch_size_keeps_the_latency_limit_and_one_that_fails_is_marked() -> None:
    predict, backend = scripted()

    def make_batch(size: int) -> list[int]:
        if size == 64:
            raise MemoryError
        return zeros(size)

    def fragile(batch: Sequence[int]) -> list[int]:
        if len(batch) == 3:
            msg = "three is too many."
            raise ValueError(msg)
        return predict(batch)

    profile = profile_inference(fragile, make_batch, (1, 3, 64, 60), max_seconds=9, latency_limit=0.04, backends=[backend])
    assert profile.best == 1
    assert [size.state for size in profile.sizes] == ["undecided", "failed", "out_of_memory", "undecided"]
    assert profile.sizes[1].note == "Failed with ValueError: three is too many."
    assert profile.sizes[2].note == "Out of memory (MemoryError)."
    assert (profile.sizes[1].joules_per_sample, profile.sizes[1].latency, profile.sizes[1].repeats) == (None, None, 0)
    table = shown(render_profile(profile))
    assert "Batch size 3: Failed with ValueError: three is too many." in table
    assert "with a p95 latency of up to 40 ms: batch size 1." in table


def test_a_single_repeat_makes_no_batch_size_the_best_one() -> None:
    predict, backend = scripted()
    profile = profile_inference(predict, zeros, (1, 2), max_seconds=2, backends=[backend])
    assert (profile.best, profile.alike) == (None, [])
    assert all(size.note is not None and "of 8 repeats; raise --seconds (max_seconds)." in size.note for size in profile.sizes)


def test_estimated_joules_are_marked_so() -> None:
    curve = PowerCurve(monotonic_clock, 100.0)
    counter = ScriptedCounter(curve, monotonic_clock, period_s=0.02)
    counter.device = replace(counter.device, method="model", provenance="estimated", relative_uncertainty=0.5)
    predict = partial(time.sleep, 0.001)
    profile = profile_inference(lambda _: predict(), zeros, (1,), max_seconds=3, backends=[ScriptedBackend([counter])])
    assert (profile.provenance, profile.relative_uncertainty) == ("estimated", 0.5)
    assert "estimated ±50 %" in shown(render_profile(profile))


def test_without_a_device_there_are_latencies_and_accuracies_and_no_joules() -> None:
    data = [([1, 2, 3], [1, 2, 3]), ([4], [5])]

    def accuracy(outputs: list[int], targets: list[int]) -> float:
        return sum(a == b for a, b in zip(outputs, targets, strict=True)) / len(targets)

    comparison = compare_models(
        {"same": list, "ones": lambda x: [1 for _ in x]}, iter(data), accuracy, max_seconds=5, backends=[]
    )
    same, ones = comparison.models
    assert (same.accuracy, ones.accuracy) == (0.75, 0.25)
    for model in (same, ones):
        assert (model.joules_per_sample, model.joules_per_sample_above_idle, model.wh_per_1000_samples) == (None, None, None)
        assert (model.pareto, model.size_bytes) == (None, None)
        assert model.repeats >= 1
        assert model.latency is not None
        assert model.samples_per_second is not None
        assert model.latency.batches > 1000
    assert (comparison.idle_watts, comparison.provenance, comparison.differences) == (None, None, [])
    table = shown(render_comparison(comparison))
    assert "0.75" in table
    assert "No device can be read on this machine" in table
    assert "Pareto" not in table


def test_models_are_compared_and_one_that_raises_is_marked() -> None:
    predict, backend = scripted()
    data = [([1, 2, 3, 4], [1, 0, 1, 0]), ([5, 6], [1, 1])]

    def broken(_: list[int]) -> list[int]:
        msg = "no weights"
        raise RuntimeError(msg)

    def accuracy(outputs: list[int], targets: list[int]) -> float:
        return sum(a == b for a, b in zip(outputs, targets, strict=True)) / len(targets)

    models = {"slow": lambda x: predict([*x, *[0] * 40])[: len(x)], "quick": predict, "broken": broken}
    for seconds in MORE_SECONDS:
        comparison = compare_models(models, data, accuracy, max_seconds=seconds, backends=[backend])
        if [pair.verdict for pair in comparison.differences] != ["undecided"]:
            break
    slow, quick, failed = comparison.models
    assert (slow.accuracy, quick.accuracy, failed.accuracy) == (pytest.approx(5 / 6), pytest.approx(5 / 6), None)
    assert (failed.state, failed.note, failed.pareto) == ("failed", "Failed with RuntimeError: no weights.", None)
    (pair,) = comparison.differences
    assert (pair.a, pair.b, pair.verdict) == ("slow", "quick", "less")
    assert pair.relative < -0.5
    assert (slow.pareto, quick.pareto) == (False, True)
    table = shown(render_comparison(comparison))
    assert "less energy than slow" in table
    assert "broken: Failed with RuntimeError: no weights." in table


def model(name: str, accuracy: float | None, joules: float) -> ModelCost:
    return ModelCost(
        name=name,
        accuracy=accuracy,
        size_bytes=None,
        pareto=None,
        joules_per_sample=Interval(mean=joules, half_width=0.01),
        joules_per_sample_above_idle=None,
        wh_per_1000_samples=None,
        samples_per_second=None,
        latency=None,
        repeats=8,
        state="measured",
        note=None,
    )


def difference(a: str, b: str, verdict: Any) -> Difference:
    return Difference(a=a, b=b, relative=0.0, half_width=0.1, p_value=0.0, verdict=verdict)


def test_a_difference_inside_the_noise_does_not_beat_a_model() -> None:
    models = [model("a", 0.9, 2.0), model("b", 0.9, 1.99), model("c", 0.8, 3.0), model("d", 0.7, 1.0), model("e", None, 0.1)]
    pairs = [
        difference("a", "b", "no difference"),
        difference("a", "c", "more"),
        difference("b", "c", "no difference"),
        difference("a", "d", "less"),
        difference("c", "d", "less"),
        difference("a", "e", "less"),
        difference("b", "d", "less"),
    ]
    _mark_pareto(models, pairs)
    assert {one.name: one.pareto for one in models} == {"a": True, "b": True, "c": False, "d": True, "e": None}


def test_what_is_undecided_leaves_pareto_open() -> None:
    models = [model("a", 0.9, 2.0), model("b", 0.8, 1.9), model("c", 0.7, 1.0), model("d", 0.95, 2.5)]
    models[3].joules_per_sample = Interval(mean=2.5, half_width=None)
    pairs = [difference("a", "b", "undecided"), difference("a", "c", "less"), difference("b", "c", "less")]
    _mark_pareto(models, pairs)
    assert {one.name: one.pareto for one in models} == {"a": None, "b": None, "c": None, "d": None}  # nothing is known of d
    pairs += [difference("d", name, "less") for name in "abc"]
    _mark_pareto(models, pairs)
    assert {one.name: one.pareto for one in models} == {"a": True, "b": None, "c": True, "d": None}
    table = shown(render_comparison(Comparison(models=models, **{**FINDINGS, "differences": pairs})), width=200)
    assert "Pareto?: undecided, because the energy of another model that is at least as accurate may be lower." in table
    assert table.count("Pareto?") == 3  # b, d, and what it means
    assert "Energy of b compared with a: undecided (+0 % ±10 %)." in table


def batch_cost(size: int, joules: float, half_width: float | None, p95_s: float = 0.01) -> BatchCost:
    found = BatchCost(batch_size=size, **cost(joules))
    found.joules_per_sample = Interval(mean=joules, half_width=half_width)
    found.latency = LatencyRecord(batches=10, p50_s=p95_s, p95_s=p95_s, p99_s=p95_s)
    return found


@pytest.mark.parametrize(
    ("pairs", "limit", "best", "alike", "candidates"),
    [
        ([("1", "8", "less"), ("8", "64", "no difference")], None, 8, [64], []),
        ([("1", "8", "less"), ("8", "64", "more")], None, 8, [], []),
        ([("1", "8", "undecided"), ("8", "64", "no difference")], None, None, [], [8, 1]),
        ([("1", "8", "less")], None, None, [], [8, 64]),  # fewer than two repeats of 64
        ([("1", "8", "less")], 0.05, 8, [], []),  # 64 is too slow
        ([], 0.005, None, [], []),
    ],
)
def test_the_best_batch_size_is_one_that_no_other_may_beat(
    pairs: list[tuple[str, str, Any]], limit: float | None, best: int | None, alike: list[int], candidates: list[int]
) -> None:
    sizes = [batch_cost(1, 3.0, 0.1), batch_cost(8, 1.0, 0.1), batch_cost(64, 1.1, 0.1, p95_s=0.1)]
    found = _rank_sizes(sizes, [difference(*pair) for pair in pairs], limit)
    assert found == {"best": best, "alike": alike, "candidates": candidates}


def test_an_undecided_best_batch_size_is_told() -> None:
    sizes = [batch_cost(1, 1.1, 0.2), batch_cost(8, 1.0, 0.2)]
    profile = Profile(sizes=sizes, latency_limit_s=None, best=None, alike=[], candidates=[8, 1], **FINDINGS)
    table = shown(render_profile(profile), width=200)
    assert "Lowest energy per sample: undecided between batch sizes 8, 1; lower --width and raise --seconds" in table
    assert table.count("best?") == 2


class Shaped(list[int]):
    """Stands in for an array."""

    def __init__(self, *shape: int) -> None:
        super().__init__([0] * shape[0])
        self.shape = shape


def identity(batch: Any) -> Any:
    return batch


def always(value: Any) -> Callable[..., Any]:
    return lambda *_: value


async def a_coroutine(batch: Any) -> Any:
    return batch


def a_generator(batch: Any) -> Iterator[Any]:
    yield batch


async def an_async_generator(batch: Any) -> AsyncIterator[Any]:
    yield batch


GOOD: dict[str, Any] = {"fn": identity, "make_batch": zeros, "batch_sizes": (1, 2)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_sizes": ()}, "There is no batch size to measure; give some"),
        ({"batch_sizes": (0, 4)}, "give whole numbers from 1 upwards, each once"),
        ({"batch_sizes": (1.5,)}, "give whole numbers from 1 upwards, each once"),
        ({"batch_sizes": 5}, "batch_sizes is 5; give whole numbers, such as (1, 8, 64)."),
        ({"batch_sizes": "18"}, "give whole numbers from 1 upwards, each once"),
        ({"batch_sizes": (True, 2)}, "give whole numbers from 1 upwards, each once"),
        ({"relative_width": "a"}, "relative_width is 'a'; give a fraction between 0 and 1"),
        ({"max_seconds": None}, "max_seconds is None; give seconds above 0"),
        ({"max_seconds": True}, "max_seconds is True; give seconds above 0"),
        ({"latency_limit": "x"}, "latency_limit is 'x'; give seconds above 0, or None for no limit."),
        ({"fn": a_coroutine}, "'fn' returns a coroutine that has not run; pass a function that runs it"),
        ({"fn": a_generator}, "'fn' returns a generator that has not run; pass a function that returns all"),
        ({"fn": an_async_generator}, "'fn' returns a generator that has not run"),
        ({"batch_sizes": (4, 4)}, "give whole numbers from 1 upwards, each once"),
        ({"relative_width": 0.0}, "relative_width is 0.0; give a fraction between 0 and 1"),
        ({"relative_width": math.nan}, "relative_width is nan; give a fraction between 0 and 1"),
        ({"max_seconds": 0}, "max_seconds is 0; give seconds above 0"),
        ({"max_seconds": math.inf}, "max_seconds is inf; give seconds above 0"),
        ({"progress": 3}, "progress is 3; give a function of the results so far"),
        ({"latency_limit": -1}, "latency_limit is -1; give seconds above 0"),
        ({"fn": 3}, "The model 'fn' is a int; pass a torch module, a Keras model, or a callable."),
        ({"make_batch": [1]}, "make_batch is a list; pass a function that returns a batch of a given number of samples"),
        ({"devices": ["no-such:*"]}, "no-such"),
    ],
)
def test_a_profile_that_cannot_work_is_refused_in_a_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        profile_inference(**{**GOOD, "backends": [], **options})
    assert words in str(caught.value)


def test_a_call_that_raises_at_every_batch_size_ends_with_what_it_raised() -> None:
    with pytest.raises(EnergyError, match=r"No batch size could be measured. At batch size 1: TypeError: object of type 'int'"):
        profile_inference(len, identity, (1, 2), max_seconds=4, backends=[])


@pytest.mark.parametrize("batch_sizes", [np.array([1, 2]), (size for size in (1, 2)), range(1, 3)])
def test_batch_sizes_may_be_any_whole_numbers_that_can_be_gone_through(batch_sizes: Iterable[int]) -> None:
    profile = profile_inference(identity, zeros, batch_sizes, max_seconds=0.1, backends=[])
    assert [size.batch_size for size in profile.sizes] == [1, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"models": {}}, "There is no model to compare"),
        ({"models": [identity]}, "There is no model to compare; pass a dictionary of names and models."),
        ({"data": 3}, "The data are a int; pass batches of (inputs, targets)."),
        ({"metric": 0.9}, "The metric is a float; pass a function of the outputs and the targets."),
        ({"models": {"a": 1}}, "The model 'a' is a int; pass a torch module, a Keras model, or a callable."),
        ({"data": []}, "The data contain no samples; pass batches of (inputs, targets)."),
        ({"data": [([], [])]}, "The data contain no samples"),
        ({"data": [[1, 2, 3]]}, "Batch 0 of the data is not a pair (inputs, targets)"),
        ({"data": [([1], 1)]}, "Batch 0 of the data is not a pair (inputs, targets) with one target per sample"),
        ({"data": [([1], np.zeros((1, 2))), ([1], np.zeros(1))]}, "The targets of the batches cannot be joined"),
        ({"metric": always(math.nan)}, "The metric of the model 'a' is nan; use a metric that returns a finite number"),
        ({"metric": always("good")}, "The metric failed on the outputs of the model 'a' (ValueError:"),
        ({"models": {"a": always(3)}}, "The model 'a' returns a int; wrap it to return the predictions."),
        ({"models": {"a": always(([1], [1]))}}, "The model 'a' returns a tuple; wrap it to return the predictions."),
        ({"models": {"a": always({"logits": [1]})}}, "The model 'a' returns a dict; wrap it to return the predictions."),
        ({"models": {"a": always([1, 2])}}, "The model 'a' returns 2 outputs for a batch of 1 samples; wrap it to return one"),
        ({"models": {"a": always(np.zeros((2, 1)))}}, "The model 'a' returns 2 outputs for a batch of 1 samples"),
        ({"models": {"a": always(np.float64(1))}}, "The model 'a' returns a single number for a batch of 1 samples"),
        ({"models": {"a": a_coroutine}}, "'a' returns a coroutine that has not run"),
        ({"models": {"a": a_generator}}, "'a' returns a generator that has not run"),
        ({"relative_width": 2}, "relative_width is 2; give a fraction between 0 and 1"),
    ],
)
def test_a_comparison_that_cannot_work_is_refused_in_a_sentence(options: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"models": {"a": identity}, "data": [([1], [1])], "metric": always(1.0)}
    with pytest.raises(ConfigurationError) as caught:
        compare_models(**{**good, **options})
    assert words in str(caught.value)


def test_models_whose_outputs_differ_in_shape_are_not_compared() -> None:
    models = {"a": always(Shaped(1, 10)), "b": always(Shaped(1, 5))}
    with pytest.raises(
        ConfigurationError, match=r"'b' returns \(5,\) for a sample and 'a' returns \(10,\); compare models whose"
    ):
        compare_models(models, [([1], [1])], always(1.0))


def test_when_every_model_raises_the_error_names_the_first_one() -> None:
    with pytest.raises(EnergyError, match=r"No model could be measured\. The model a: TypeError: object of type 'int'"):
        compare_models({"a": lambda x: len(x[0])}, [([1], [1])], always(1.0), max_seconds=4, backends=[])


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("CUDA"), True),
        (ResourceExhaustedError("OOM"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error: Exception, *, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


# ---------------------------------------------------------------------------------------------------- the command

MODULE = """
import time


def slowly(work):
    return lambda batch: time.sleep(0.001) or work(batch)


def build():
    return slowly(sum), (lambda size: [1] * size)


def models():
    data = [([1, 2], [1, 2])] * 3
    models = {"same": slowly(list), "twice": slowly(lambda x: [2 * v for v in x])}
    return models, data, lambda outputs, targets: float(outputs == targets)


def broken():
    raise RuntimeError("no weights")


def leaves():
    raise SystemExit(3)


NUMBER = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "attribute.py").write_text("import json; json.no_such_thing", encoding="utf-8")
    (tmp_path / "script.py").write_text("raise SystemExit(3)", encoding="utf-8")
    return tmp_path


def test_the_command_profiles(folder: Path) -> None:
    done = ml_energy("profile", "mine:build", "--batch-sizes", "1,8", "--seconds", "4", "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [size["batch_size"] for size in found["sizes"]] == [1, 8]
    assert found["relative_width"] == 0.05


def test_the_command_compares(folder: Path) -> None:
    done = ml_energy("compare", "mine:models", "--seconds", "4", folder=folder)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("same", "twice", "accuracy", "J/sample"))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("profile", "mine"), "'mine' does not name a function; write it as module:function"),
        (("profile", "nobodys:build"), "The module 'nobodys' cannot be imported (ModuleNotFoundError"),
        (("profile", "mine:nothing"), "The module 'mine' has no function 'nothing'"),
        (("profile", "mine:NUMBER"), "The module 'mine' has no function 'NUMBER'"),
        (("profile", "attribute:build"), "The module 'attribute' cannot be imported (AttributeError: module 'json' has no"),
        (("profile", "script:build"), "The module 'script' exits when it is imported; move its commands below: if __name__"),
        (("profile", "mine:leaves"), "mine:leaves failed (SystemExit: 3)"),
        (("profile", "mine:broken"), "mine:broken failed (RuntimeError: no weights)"),
        (("profile", "mine:models"), "mine:models returned a tuple of 3; it must return (fn, make_batch)."),
        (
            ("profile", "mine:build", "--batch-sizes", "1,many"),
            "--batch-sizes '1,many' is not a list of whole numbers; write it as 1,8,64.",
        ),
        (("compare", "mine:build"), "mine:build returned a tuple of 2; it must return (models, data, metric)."),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence_and_status_2(folder: Path, args: tuple[str, ...], words: str) -> None:
    done = ml_energy(*args, folder=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


# ---------------------------------------------------------------------------------------------------- the pictures


def cost(joules: float) -> dict[str, Any]:
    fields = model("", None, joules)
    return {name: getattr(fields, name) for name in Cost.__struct_fields__}


FINDINGS: dict[str, Any] = {
    "idle_watts": None,
    "relative_uncertainty": 0.1,
    "provenance": "measured",
    "devices": ["nvml:0"],
    "relative_width": 0.05,
    "seconds": 1.0,
    "differences": [],
    "warnings": [],
}


def test_without_matplotlib_a_picture_is_refused_before_work_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "matplotlib")
    done = ml_energy("profile", "mine:broken", "--plot", "a.png", folder=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ml-energy: Pictures require matplotlib: pip install 'ml-energy-callbacks[plot]', or omit --plot.\n"


def test_a_profile_and_a_comparison_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sizes = [batch_cost(size, 1 / size, 0.01) for size in (1, 8)]
    profile = Profile(sizes=sizes, latency_limit_s=0.1, best=8, alike=[], candidates=[], **FINDINGS)
    comparison = Comparison(models=[model("a", 0.9, 2.0), model("b", 0.8, 1.0)], **FINDINGS)
    plot_profile(profile, tmp_path / "profile.png")
    plot_comparison(comparison, tmp_path / "comparison.png")
    plot_comparison(comparison, tmp_path / "comparison.svg")
    silent = BatchCost(batch_size=1, **{**cost(1.0), "joules_per_sample": None})
    nothing = Profile(sizes=[silent], latency_limit_s=1e9, best=None, alike=[], candidates=[], **FINDINGS)
    plot_profile(nothing, tmp_path / "nothing.png")
    for name in ("profile.png", "comparison.png", "nothing.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    # Models that are alike lie on each other, and their names must not.
    legend = (tmp_path / "comparison.svg").read_text(encoding="utf-8").partition('id="legend_1"')[2]
    assert all(f"<!-- {each.name} -->" in legend for each in comparison.models)


@pytest.mark.parametrize(("limit", "top"), [(12.0, 20.0), (1e12, 10.0)])
def test_a_latency_limit_far_off_does_not_squash_the_panel(limit: float, top: float) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure  # noqa: PLC0415 - of this test alone

    axes = Figure().subplots()
    axes.plot([1, 8], [1.0, 9.0])
    _draw_limit(axes, limit)
    assert axes.get_ylim()[1] < top
    assert len(axes.lines) == (2 if limit == 12.0 else 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.txt", "has no supported picture format"), ("nowhere/a.png", "nowhere for the picture does not exist")],
)
def test_a_picture_that_cannot_be_written_is_refused(tmp_path: Path, name: str, words: str) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigurationError, match=words):
        check_picture(tmp_path / name)

"""Generated text: what is measured, the law and its intervals where the truth is known, tables, pictures, and the command."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from command import hide, ml_energy
from inference_world import World
from rich.console import Console

from ml_energy_callbacks.inference import Coefficient, GenerationCost, GenerationProfile, Interval, Law
from ml_energy_callbacks.inference.engine import Call, Case, measure_cases
from ml_energy_callbacks.inference.generation import GenerationCase, Lengths, TokenTimes, lengths_to_measure, result_fields
from ml_energy_callbacks.inference.generation_plot import plot_generation
from ml_energy_callbacks.inference.generation_table import render_generation
from ml_energy_callbacks.inference.law import Responses, fit_law
from ml_energy_callbacks.record.load import dump_json
from ml_energy_callbacks.record.schema import LatencyRecord

PLANTED = {"a": 2.0, "b": 0.02, "c": 0.4, "d": 0.001}
PROMPTS, COUNTS = (32, 128, 512), (16, 64)


def planted(prompt: int, new: int, law: Mapping[str, float] = PLANTED) -> float:
    return law["a"] + law["b"] * prompt + law["c"] * new + law["d"] * new * (prompt + new / 2)


def drawn(
    seed: int, law: Mapping[str, float], *, repeats: int = 8, noise: float = 0.03, drift: float = 0.02
) -> list[Responses]:
    """Return responses with noise of their own, and with drift that all of a round share."""
    rng = random.Random(seed)
    levels = [rng.gauss(1, drift) for _ in range(repeats)]
    return [
        Responses(
            each.prompt_tokens,
            each.new_tokens,
            {
                i: planted(each.prompt_tokens, each.new_tokens, law) * level * rng.gauss(1, noise)
                for i, level in enumerate(levels)
            },
            held_back=each.held_back,
        )
        for each in lengths_to_measure(PROMPTS, [1], COUNTS)
    ]


def holds(found: Coefficient | None, truth: float) -> bool:
    assert found is not None
    assert found.low_joules is not None
    assert found.high_joules is not None
    assert 0 <= found.low_joules <= found.joules <= found.high_joules
    return found.low_joules <= truth <= found.high_joules


# ----------------------------------------------------------------------------------------------------------- lengths


def test_each_prompt_has_its_prefill_and_lengths_between_are_held_back() -> None:
    found = lengths_to_measure([128, 32, 512], [4], [64, 16])
    assert [(each.prompt_tokens, each.new_tokens) for each in found if not each.held_back] == [
        (prompt, count) for prompt in (128, 32, 512) for count in (1, 16, 64)
    ]
    assert [(each.prompt_tokens, each.new_tokens) for each in found if each.held_back] == [(80, 40), (320, 8)]
    assert {each.batch_size for each in found} == {4}


@pytest.mark.parametrize(
    ("prompts", "counts", "held_back"),
    [([8], [4], []), ([8, 9], [4], []), ([8, 16], [1], []), ([8, 16], [2], []), ([8, 16], [4], [(12, 2)])],
)
def test_without_a_length_between_nothing_is_held_back(
    prompts: list[int], counts: list[int], held_back: list[tuple[int, int]]
) -> None:
    found = lengths_to_measure(prompts, [1], counts)
    assert [(each.prompt_tokens, each.new_tokens) for each in found if each.held_back] == held_back


def test_the_times_of_tokens_begin_with_the_call() -> None:
    times = TokenTimes()
    times.add(100, [1100, 1150, 1250])
    times.add(100, [600])
    assert (times.first.count, times.between.count) == (2, 2)
    assert times.first.at(1.0) == pytest.approx(1000, rel=0.01)
    assert times.between.at(0.5) == pytest.approx(50, rel=0.01)


# ----------------------------------------------------------------------------------------------------------- the law


def test_without_noise_the_law_is_found_exactly() -> None:
    law = fit_law(1, drawn(0, PLANTED, noise=0.0, drift=0.0))
    for name, truth in PLANTED.items():
        assert getattr(law, name).joules == pytest.approx(truth)
    assert [(each.prompt_tokens, each.new_tokens) for each in law.held_back] == [(80, 40), (320, 8)]
    assert law.error == pytest.approx(0, abs=1e-9)
    assert law.joules(1000, 200) == pytest.approx(planted(1000, 200))
    assert law.reason is None


@pytest.mark.statistics
@pytest.mark.parametrize(
    "truth",
    [PLANTED, {**PLANTED, "d": 0.0}, {**PLANTED, "a": 0.0, "d": 0.0}],
    ids=["all", "no d", "b and c"],
)
def test_intervals_hold_with_noise_and_drift_and_at_zero(truth: Mapping[str, float], *, full: bool) -> None:
    seeds = 1000 if full else 100
    laws = [fit_law(1, drawn(seed, truth)) for seed in range(seeds)]
    for name in truth:
        assert sum(holds(getattr(law, name), truth[name]) for law in laws) >= 0.93 * seeds
    errors = sorted(law.error or 0.0 for law in laws)
    assert errors[seeds // 2] < 0.04


def test_what_the_law_does_not_describe_widens_the_intervals_and_shows_in_the_error() -> None:
    """The prefill's energy grows with the square of the prompt, of which the law has no term."""

    def bent(prompt: int, new: int) -> float:
        return planted(prompt, new) + 3e-4 * prompt**2

    def responses(energy: Callable[[int, int], float]) -> list[Responses]:
        return [
            Responses(
                each.prompt_tokens,
                each.new_tokens,
                {i: energy(each.prompt_tokens, each.new_tokens) * (1 + 0.001 * (-1) ** i) for i in range(8)},
                held_back=each.held_back,
            )
            for each in lengths_to_measure(PROMPTS, [1], COUNTS)
        ]

    straight, curved = fit_law(1, responses(planted)), fit_law(1, responses(bent))
    for name in PLANTED:
        narrow, wide = (getattr(law, name) for law in (straight, curved))
        assert wide.high_joules - wide.low_joules > 5 * (narrow.high_joules - narrow.low_joules)
    assert straight.error is not None
    assert curved.error is not None
    assert straight.error < 0.001
    assert curved.error > 0.05


def test_a_law_that_cannot_be_known_says_why() -> None:
    alone = [Responses(32, count, {0: 1.0 * count, 1: 1.1 * count}) for count in (1, 16, 64)]
    assert fit_law(1, alone).reason is not None
    assert "give two prompt lengths or more" in (fit_law(1, alone).reason or "")
    assert fit_law(1, alone).joules(1, 1) is None
    silent = [Responses(prompt, count, {}) for prompt in PROMPTS for count in (1, 16)]
    assert fit_law(1, silent).reason == "No response has a known energy; raise --seconds (max_seconds) if time ran out."
    nothing = [Responses(prompt, count, {0: count - 1.0}) for prompt in PROMPTS for count in (1, 16)]
    assert "too small to be measured" in (fit_law(1, nothing).reason or "")
    once = fit_law(1, drawn(0, PLANTED, repeats=1))
    assert once.reason is not None
    assert "a single repeat" in once.reason
    assert once.c is not None
    assert (once.c.low_joules, once.c.high_joules) == (None, None)


# ----------------------------------------------------------------------------------------------------------- measured


def measured(seed: int) -> dict[str, Any]:
    """Measure on a simulated device whose energy follows the planted law; in a batch, a response takes half of it."""
    world = World(seed)

    def prepare(lengths: Lengths, times: TokenTimes) -> Call:
        joules = planted(lengths.prompt_tokens, lengths.new_tokens) / (1 if lengths.batch_size == 1 else 2)
        call = world.generate(lengths.batch_size, joules)

        def timed() -> int:
            begun = world.clock()
            responses = call()
            ended = world.clock()
            times.add(begun, [begun + (ended - begun) * i // lengths.new_tokens for i in range(1, lengths.new_tokens + 1)])
            return responses

        return timed

    cases = [GenerationCase(each, prepare) for each in lengths_to_measure(PROMPTS, [1, 4], COUNTS)]
    found = measure_cases(
        [Case(str(each.lengths), each.prepare) for each in cases],
        world.bench,
        relative_width=0.05,
        max_seconds=1e6,
        seed=seed,
        progress=lambda _: None,
    )
    return result_fields(cases, found, 0.05)


@pytest.fixture(scope="module")
def worlds(*, full: bool) -> list[dict[str, Any]]:
    return [measured(seed) for seed in range(40 if full else 3)]


@pytest.mark.xdist_group("worlds of generation")
def test_a_simulated_device_gives_its_law_back(worlds: list[dict[str, Any]]) -> None:
    held = total = 0
    for found in worlds:
        for law, share in zip(found["laws"], (1.0, 0.5), strict=True):
            assert law.reason is None
            held += sum(holds(getattr(law, name), truth * share) for name, truth in PLANTED.items())
            total += len(PLANTED)
            assert law.c.joules == pytest.approx(PLANTED["c"] * share, rel=0.15)
            assert law.error < 0.1
    assert held >= 0.9 * total


@pytest.mark.xdist_group("worlds of generation")
def test_energy_of_prompt_and_new_tokens_is_that_of_prefill_and_the_rest(worlds: list[dict[str, Any]]) -> None:
    held: dict[str, list[bool]] = {"prompt": [], "new": []}
    for found in worlds:
        for case in found["cases"]:
            prompt, new, share = case.prompt_tokens, case.new_tokens, 1.0 if case.batch_size == 1 else 0.5
            if case.held_back:
                assert (case.joules_per_prompt_token, case.joules_per_new_token) == (None, None)
                continue
            held["prompt"].append(inside(case.joules_per_prompt_token, planted(prompt, 1) * share / prompt))
            if new == 1:
                assert case.joules_per_new_token is None
                assert case.time_per_new_token is None
                continue
            each = (planted(prompt, new) - planted(prompt, 1)) * share / (new - 1)
            held["new"].append(inside(case.joules_per_new_token, each))
            assert case.new_tokens_per_second.mean == pytest.approx(new * case.samples_per_second.mean)
            assert case.time_per_new_token.p50_s == pytest.approx(case.latency.p50_s / new, rel=0.03)
            assert case.time_to_first_token.p50_s == pytest.approx(case.latency.p50_s / new, rel=0.03)
    assert all(sum(each) >= 0.85 * len(each) for each in held.values())


def inside(found: Interval, truth: float) -> bool:
    assert found.half_width is not None
    return abs(found.mean - truth) <= found.half_width


# ----------------------------------------------------------------------------------------------------------- shown


def a_profile(**options: Any) -> GenerationProfile:
    """Return a profile as of a measurement of two batch sizes."""
    cases = [
        cost(each, planted(each.prompt_tokens, each.new_tokens) / each.batch_size)
        for each in lengths_to_measure(PROMPTS, [1, 8], COUNTS)
    ]
    laws = [fit_law(size, drawn(size, PLANTED)) for size in (1, 8)]
    found: dict[str, Any] = {
        "idle_watts": None,
        "relative_uncertainty": 0.5,
        "provenance": "estimated",
        "devices": ["cpu-model:0"],
        "relative_width": 0.05,
        "seconds": 1.0,
        "warnings": [],
        "cases": cases,
        "laws": laws,
        "do_sample": False,
    }
    return GenerationProfile(**(found | options))


def cost(lengths: Lengths, joules: float) -> GenerationCost:
    latency = LatencyRecord(batches=10, p50_s=0.02, p95_s=0.03, p99_s=0.04)
    later = lengths.new_tokens > 1 and not lengths.held_back
    return GenerationCost(
        joules_per_sample=Interval(mean=joules, half_width=0.02 * joules),
        joules_per_sample_above_idle=None,
        wh_per_1000_samples=joules / 3.6,
        samples_per_second=Interval(mean=2.0, half_width=0.1),
        latency=latency,
        repeats=8,
        state="measured",
        note=None,
        new_tokens_per_second=Interval(mean=2.0 * lengths.new_tokens, half_width=0.1),
        time_per_new_token=latency if lengths.new_tokens > 1 else None,
        time_to_first_token=latency,
        joules_per_new_token=Interval(mean=0.3, half_width=0.4 if lengths.new_tokens == 16 else 0.01) if later else None,
        joules_per_prompt_token=None if lengths.held_back else Interval(mean=0.02, half_width=None),
        held_back=lengths.held_back,
        new_tokens=lengths.new_tokens,
        prompt_tokens=lengths.prompt_tokens,
        batch_size=lengths.batch_size,
    )


def shown(profile: GenerationProfile, width: int) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(render_generation(profile))
    return capture.get()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_fits_and_marks_what_is_estimated_or_not_resolved(width: int) -> None:
    text = shown(a_profile(), width)
    assert max(len(line) for line in text.splitlines()) <= width
    text = " ".join(text.split())
    for words in (
        "J = a + b·prompt + c·new",
        "estimated ±50 %",
        "Law at lengths that were held back",
        "the law differs from lengths that were held back by",
    ):
        assert words in text
    assert "<700" in text or "<0.70" in text  # an energy of a new token of 0.3 ±0.4 J
    assert (" repeats " in text) is (width > 60)


def test_reasons_and_failures_are_told_once() -> None:
    profile = a_profile()
    for case in profile.cases[:3]:
        case.state, case.note = "undecided", "Stopped after 1 of 8 repeats; raise --seconds (max_seconds)."
    profile.cases[3].state, profile.cases[3].note = "out_of_memory", "Out of memory (MemoryError)."
    profile.laws[0] = fit_law(1, [])
    text = " ".join(shown(profile, 200).split())
    assert "Undecided: 3 of 22 cases; raise --seconds (max_seconds) or --width (relative_width)." in text
    assert "Batch size 1, 128+1 tokens: Out of memory (MemoryError)." in text
    assert "Batch size 1: No response has a known energy; raise --seconds (max_seconds) if time ran out." in text
    nothing = a_profile(laws=[fit_law(size, []) for size in (1, 8)])
    assert "Law" not in shown(nothing, 80)


def test_a_profile_is_json_and_a_page_of_a_notebook_and_a_data_frame() -> None:
    profile = a_profile()
    found = json.loads(dump_json(profile))
    assert found == profile.to_dict()
    assert found["laws"][1]["batch_size"] == 8
    page = profile._repr_html_()
    assert all(f"Energy of a response at batch size {size}" in page for size in (1, 8))
    assert "a, per response" in page
    assert repr(profile.plot()).startswith("<2 pictures of predictions")
    pytest.importorskip("pandas")
    frame = profile.to_frame()
    assert list(frame.columns[:4]) == ["batch_size", "prompt_tokens", "new_tokens", "held_back"]
    assert len(frame) == 22


def test_a_profile_is_drawn_with_and_without_energy(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_generation(a_profile(), tmp_path / "a.png")
    silent = a_profile()
    for case in silent.cases:
        case.joules_per_sample = None
    silent.laws = [Law(batch_size=8, a=None, b=None, c=None, d=None, held_back=[], reason="Unknown.")]
    plot_generation(silent, tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


# ----------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--prompts", "8"), "--prompts, --new-tokens and --sample are for --generate; add it, or omit them."),
        (("--sample",), "--prompts, --new-tokens and --sample are for --generate; add it, or omit them."),
        (("--generate", "--latency-limit", "1"), "--latency-limit is not for --generate; omit one of them."),
        (("--generate", "--prompts", "8,many"), "--prompts '8,many' is not a list of whole numbers; write it as 1,8,64."),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(args: tuple[str, ...], words: str) -> None:
    done = ml_energy("profile", "mine:build", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"ml-energy: {words}\n"


def test_without_transformers_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "transformers")
    hide(monkeypatch, "ml_energy_callbacks.transformers")
    done = ml_energy("profile", "mine:build", "--generate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ml-energy: --generate cannot be used: ")
    assert len(done.stderr.splitlines()) == 1

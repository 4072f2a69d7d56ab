"""Energy of generated text: real decoders, made here, through their own ``generate``."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import ml_energy
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError, EnergyError
from ml_energy_callbacks.inference import GenerationProfile
from ml_energy_callbacks.testing import ScriptedBackend, ScriptedCounter
from ml_energy_callbacks.transformers import profile_generation

VOCABULARY, POSITIONS = 50, 64
STEP_S = 0.004
"""Each step of a model rests for so long, and leaves the processor to others."""


class Known(Exception):  # noqa: N818 - no error
    """All is known that a test looks at."""


def recorded(kind: type[Any]) -> type[Any]:
    """Return a class of models that keep what they were asked for, and what they generated."""

    class Recorded(kind):  # type: ignore[misc]
        def generate(self, inputs: torch.Tensor, **options: Any) -> Any:
            found = super().generate(inputs, **options)
            vars(self).setdefault("calls", []).append((inputs, options["max_new_tokens"], found))
            return found

    return Recorded


def llama(kind: type[Any] = LlamaForCausalLM) -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS,
        eos_token_id=list(range(VOCABULARY // 2)),  # half of all tokens end a response
    )
    return kind(config)


def gpt2(kind: type[Any] = GPT2LMHeadModel) -> Any:
    return kind(GPT2Config(vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=32, n_layer=1, n_head=2))


def rests(model: Any) -> Any:
    model.register_forward_hook(lambda *_: time.sleep(STEP_S))
    return model


def measured(model: Any, *args: Any, repeats: int = 0, **options: Any) -> GenerationProfile:
    """Return what is known when each case has so many repeats, after a block that warms up."""
    blocks = 0

    def progress(found: GenerationProfile) -> None:
        nonlocal blocks
        blocks += 1
        if blocks == (1 + repeats) * len(found.cases):
            raise Known(found)

    with pytest.raises(Known) as known:
        profile_generation(model, *args, max_seconds=600, progress=progress, **options)
    found: GenerationProfile = known.value.args[0]
    return found


@pytest.mark.parametrize(
    ("make", "do_sample"), [(llama, False), (llama, True), (gpt2, False)], ids=["llama", "llama, sampled", "gpt2"]
)
def test_what_is_generated_is_as_without_and_nothing_of_the_users_changes(make: Callable[..., Any], *, do_sample: bool) -> None:
    model = rests(make(recorded(LlamaForCausalLM if make is llama else GPT2LMHeadModel)))
    state, config = torch.get_rng_state(), model.generation_config.to_dict()
    found = measured(model, None, (3,), (2,), (5,), do_sample=do_sample, backends=[], seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.generation_config.to_dict() == config
    assert found.do_sample is do_sample
    assert [(case.prompt_tokens, case.new_tokens) for case in found.cases] == [(3, 1), (3, 5)]
    model.eval()
    plain, checked = super(type(model), model).generate, 0
    for i, (prompts, count, outputs) in enumerate(model.calls):
        assert outputs.shape == (2, 3 + count)
        assert not torch.equal(prompts[0], prompts[1])
        first = not i or model.calls[i - 1][1] != count
        if first or (not do_sample and i % 20 == 0):  # sampling goes on through a block
            checked += 1
            torch.manual_seed(7)
            options = {"min_new_tokens": count, "max_new_tokens": count, "do_sample": do_sample, "pad_token_id": 0}
            assert torch.equal(plain(prompts, attention_mask=torch.ones_like(prompts), **options), outputs)
    assert checked >= 2
    asked = {tuple(prompts.flatten().tolist()) for prompts, count, _ in model.calls if count == 5}
    different = {tuple(outputs.flatten().tolist()) for _, count, outputs in model.calls if count == 5}
    assert (len(different) > len(asked)) is do_sample


F0, F1, G0, G1 = 1.0, 0.02, 0.4, 0.005
"""Energy in J of a prefill, of each token of it, of a step after it, and of each token that this step looks at."""
PLANTED = {"a": F0 - G0, "b": F1 - G1, "c": G0 - G1 / 2, "d": G1}
"""The law of that, as the steps after the prefill are one fewer than the new tokens."""


class Work:
    """The energy of a device that works for a model alone, however long that takes."""

    def __init__(self) -> None:
        self.used = 0.0
        self._context = 0

    def watch(self, model: Any) -> None:
        model.register_forward_hook(self._step, with_kwargs=True)

    def _step(self, _: Any, args: Any, kwargs: Any, output: Any) -> None:
        tokens = kwargs["input_ids"].shape[1]
        self._context = tokens if tokens > 1 else self._context + 1
        self.used += F0 + F1 * tokens if tokens > 1 else G0 + G1 * self._context

    def watts(self, time_ns: int) -> float:
        raise NotImplementedError

    def joules(self, time_ns: int) -> float:
        return self.used + time_ns / NS_PER_S


def test_the_law_of_a_real_decoder_on_a_known_device_is_found() -> None:
    model, work = rests(llama()), Work()
    work.watch(model)
    backend = ScriptedBackend([ScriptedCounter(work, monotonic_clock, period_s=0.0)])
    found = measured(model, None, (4, 40), (1,), (8,), repeats=2, backends=[backend])
    (law,) = found.laws
    for name, joules in PLANTED.items():
        assert getattr(law, name).joules == pytest.approx(joules, rel=0.25, abs=0.05)
    assert [(each.prompt_tokens, each.new_tokens) for each in law.held_back] == [(22, 4)]
    assert law.error is not None
    assert law.error < 0.1
    assert found.provenance == "measured"
    for case in found.cases:
        assert case.time_to_first_token is not None
        assert case.time_to_first_token.p50_s * 1.01 >= STEP_S
        if case.new_tokens > 1:
            assert case.time_per_new_token is not None
            assert case.time_per_new_token.p50_s * 1.01 >= STEP_S
            assert case.latency is not None
            assert case.latency.p50_s > case.new_tokens * STEP_S


def spelled(text: str) -> dict[str, list[int]]:
    return {"input_ids": [ord(character) % VOCABULARY for character in text]}


def test_texts_and_ids_are_prompts_as_they_are() -> None:
    model = rests(gpt2(recorded(GPT2LMHeadModel)))
    measured(model, spelled, ["seven..", torch.tensor([4, 2, 4])], (2,), (3,), backends=[])
    seen = {(prompts.shape[1], count): prompts for prompts, count, _ in model.calls}
    assert seen.keys() == {(7, 1), (7, 3), (3, 1), (3, 3), (5, 2)}
    text = spelled("seven..")["input_ids"]
    assert seen[7, 3].tolist() == [text, text]
    assert seen[3, 1].tolist() == [[4, 2, 4]] * 2
    assert seen[5, 2].tolist() == [text[:5]] * 2  # held back


def no_ids(text: str) -> dict[str, list[int]]:
    raise KeyError(text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": print}, "The model is a builtin_function_or_method; pass one of transformers"),
        ({"model": GPT2LMHeadModel}, "The model is a type; pass one of transformers"),
        ({"model": "bert"}, "BertModel does not generate text; pass a decoder"),
        ({"model": "t5"}, "has an encoder, and the law is one of decoders"),
        ({"prompts": [40, 60], "new_tokens": [4, 5]}, "A prompt of 60 tokens with 5 new ones is longer than the 64 tokens"),
        ({"prompts": []}, "There is no prompt; give some, such as [32, 128]"),
        ({"prompts": 8}, "prompts is 8; give a list of lengths in tokens"),
        ({"prompts": "a text"}, "prompts is 'a text'; give a list of lengths in tokens"),
        ({"prompts": [0]}, "The prompt 0 has no tokens; give prompts of at least one token."),
        ({"prompts": [""], "tokenizer": spelled}, "The prompt '' has no tokens"),
        ({"prompts": [2.5]}, "The prompt 2.5 is no prompt; give a length in tokens, a text, or ids of tokens."),
        ({"prompts": [True]}, "The prompt True is no prompt"),
        ({"prompts": [[1, 2.5]]}, "The prompt [1, 2.5] is no prompt"),
        ({"prompts": [4, "four"], "tokenizer": spelled}, "Two prompts have 4 tokens; give prompts of different lengths."),
        ({"prompts": ["four"]}, "There are texts among the prompts and no tokenizer; pass the model's tokenizer"),
        ({"prompts": ["four"], "tokenizer": no_ids}, "The tokenizer failed (KeyError: 'four'); pass the model's own"),
        ({"prompts": [[1, 50]]}, "A prompt has ids outside the 50 of the model's vocabulary; use the model's own tokenizer."),
        ({"prompts": [[-1, 2]]}, "A prompt has ids outside the 50"),
        ({"batch_sizes": [0]}, "batch_sizes are (0,); give whole numbers from 1 upwards, each once."),
        ({"new_tokens": 3}, "new_tokens is 3; give whole numbers, such as (16, 64)."),
        ({"new_tokens": []}, "There is no number of new tokens to measure; give some, such as (16, 64)."),
        ({"relative_width": 2}, "relative_width is 2; give a fraction between 0 and 1"),
        ({"devices": ["no-such:*"]}, "no-such"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence_before_anything_is_generated(options: dict[str, Any], words: str) -> None:
    decoder = gpt2(recorded(GPT2LMHeadModel))
    small = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": VOCABULARY}
    tiny = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=VOCABULARY)
    models = {"bert": lambda: BertModel(tiny), "t5": lambda: T5ForConditionalGeneration(T5Config(**small))}
    given = options.get("model", decoder)
    model = models[given]() if isinstance(given, str) else given
    with pytest.raises(ConfigurationError) as caught:
        profile_generation(**{"prompts": [4], "new_tokens": [2], "backends": [], **options, "model": model})
    assert words in str(caught.value)
    assert not hasattr(decoder, "calls")


def test_a_model_that_stops_early_is_not_measured() -> None:
    model = gpt2()
    model.generation_config.max_time = 1e-9
    with pytest.raises(ConfigurationError, match="The model generated 1 of 16 tokens; remove what ends it"):
        profile_generation(model, None, [4], [1], [16], max_seconds=10, backends=[])
    assert model.training


def test_a_model_that_raises_for_all_lengths_ends_with_what_it_raised() -> None:
    def fail(*_: Any) -> None:
        msg = "no weights"
        raise RuntimeError(msg)

    model = gpt2()
    model.register_forward_hook(fail)
    with pytest.raises(EnergyError, match=r"Nothing could be generated. At batch size 1 and 4\+1 tokens: RuntimeError: no w"):
        profile_generation(model, None, [4], [1], [16], max_seconds=4, backends=[])


# ----------------------------------------------------------------------------------------------------------- the command

MODULE = """
from transformers import GPT2Config, GPT2LMHeadModel


def build():
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=1, n_head=2))


def number():
    return 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "mine.py").write_text(MODULE, encoding="utf-8")
    (folder / "empty").mkdir()
    llama().save_pretrained(folder / "saved")
    return folder


def profile(folder: Path, target: str, *options: str) -> Any:
    lengths = ("--prompts", "3,4", "--new-tokens", "2", "--batch-sizes", "1,2")
    return ml_energy("profile", "--generate", target, *lengths, "--seconds", "0.3", *options, folder=folder)


@pytest.mark.parametrize("target", ["mine:build", "saved"])
def test_the_command_profiles_a_function_and_a_directory(folder: Path, target: str) -> None:
    done = profile(folder, target, "--sample", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [law["batch_size"] for law in found["laws"]] == [1, 2]
    assert [case["prompt_tokens"] for case in found["cases"]] == [3, 3, 4, 4] * 2
    assert found["do_sample"] is True


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("empty", "empty cannot be loaded as a model that generates (ValueError:"),
        ("none", "There is no directory 'none'; give that of a model, or a function"),
        ("mine:number", "The model is a int; pass one of transformers"),
        ("mine:none", "The module 'mine' has no function 'none'"),
    ],
)
def test_a_target_without_a_model_is_one_sentence(folder: Path, target: str, words: str) -> None:
    done = profile(folder, target)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "inference.md").read_text(encoding="utf-8")
    example = re.search(r"^```python no-test\n(.*?profile_generation.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert example is not None
    assert "max_seconds=120" in example[1]
    exec(example[1].replace("max_seconds=120", "max_seconds=0.3"), {})  # noqa: S102
    assert "a=" in capsys.readouterr().out

"""Energy of what ``generate`` of Hugging Face's models generates, by batch size and lengths."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from numbers import Integral
from operator import index
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer

from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference.engine import Call
from ml_energy_callbacks.inference.generation import Lengths, TokenTimes, lengths_to_measure, profile_lengths
from ml_energy_callbacks.inference.generation_results import GenerationProfile
from ml_energy_callbacks.inference.models import in_eval_mode
from ml_energy_callbacks.inference.options import check_measurement, check_whole_numbers
from ml_energy_callbacks.readings import Backend
from ml_energy_callbacks.safe_text import describe, shorten

Prompt = int | str | Sequence[int]
"""A length in tokens, a text, or the ids of its tokens."""


def profile_generation(
    model: Any,
    tokenizer: Any = None,
    prompts: Iterable[Prompt] = (32, 128, 512),
    batch_sizes: Iterable[int] = (1, 8),
    new_tokens: Iterable[int] = (16, 64),
    *,
    do_sample: bool = False,
    relative_width: float = 0.05,
    max_seconds: float = 300.0,
    devices: Literal["auto"] | Sequence[str] = "auto",
    backends: Sequence[Backend] | None = None,
    seed: int = 0,
    progress: Callable[[GenerationProfile], None] | None = None,
) -> GenerationProfile:
    """Measure the energy of generated text by batch size, prompt length and number of new tokens, and fit its law.

    As in :func:`~ml_energy_callbacks.inference.profile_inference`, shuffled rounds measure a block of calls of each case. Each
    response has exactly as many new tokens as its case says. A response of one token, the prefill, is measured with each
    prompt, and lengths midway between the given ones are measured to check the law.

    Args:
        model: A decoder of transformers that generates, such as ``AutoModelForCausalLM`` loads; it runs in eval mode, on the
            device where it is. Its mode, its generation config and torch's random
            state (on the processor and on CUDA's GPUs) stay as they are.
        tokenizer: Turns texts into tokens; None where ``prompts`` has none.
        prompts: The prompts, each of a different length: a length in tokens, for random tokens; a text; or ids of tokens. A
            batch holds a text, or ids, several times, and different random tokens.
        batch_sizes: The batch sizes to measure: numbers of responses that are generated at once.
        new_tokens: The numbers of new tokens to measure.
        do_sample: Whether to sample tokens, as the model's generation config says; else the most likely one is taken.
        relative_width: Requested half-width of the 95 % interval of joules per response, as a fraction.
        max_seconds: No block starts after this time in s; cases that are not decided by then are ``undecided``.
        devices: ``"auto"`` or ids and globs, as in :class:`EnergyMeter`.
        backends: Where to look for hardware; None for all known backends.
        seed: Seed of random tokens, of sampling, and of the order within the rounds.
        progress: Called with the results so far after each block.

    Raises:
        ConfigurationError: An option is invalid, the model cannot generate that many tokens after such prompts, or it ends
            before; the message says what to do.
        EnergyError: Nothing could be generated, because each call raised an error.
    """
    check_measurement(relative_width, max_seconds, progress)
    _check_model(model)
    sizes = check_whole_numbers("batch_sizes", batch_sizes, "batch size", (1, 8))
    counts = check_whole_numbers("new_tokens", new_tokens, "number of new tokens", (16, 64))
    given = _read_prompts(prompts, tokenizer)
    _check_prompts(model, given, max(counts))
    generator = _Generator(model, given, do_sample=do_sample, seed=seed)
    with in_eval_mode([model]), generator.own_random_state():
        return profile_lengths(
            lengths_to_measure(list(given), sizes, counts),
            generator.prepare,
            do_sample=do_sample,
            relative_width=relative_width,
            max_seconds=max_seconds,
            devices=devices,
            backends=backends,
            seed=seed,
            progress=progress,
        )


def load_model(folder: Path) -> Any:
    """Load a model from a folder, onto the GPU if torch can use one; nothing is downloaded, and none of its code runs.

    Raises:
        ConfigurationError: It is no model that generates.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False, torch_dtype="auto")
    except Exception as error:
        reason = shorten(f"{type(error).__name__}: {error}", 200)  # some list all known models
        msg = f"{folder} cannot be loaded as a model that generates ({reason}); use the folder of a decoder."
        raise ConfigurationError(msg) from error
    return model.to("cuda") if torch.cuda.is_available() else model


class _Generator:
    """Generates responses of given lengths."""

    def __init__(self, model: Any, given: Mapping[int, Sequence[int] | None], *, do_sample: bool, seed: int) -> None:
        """Use this model and these prompts: ids by their number, or None for random ones."""
        self._model = model
        self._given = given
        self._seed = seed
        self._gpus = sorted({each.device.index for each in model.parameters() if each.device.type == "cuda"})
        config = model.generation_config
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        self._options = {
            "do_sample": do_sample,
            "num_beams": 1,
            "num_return_sequences": 1,
            "use_cache": True,
            "return_dict_in_generate": False,
            # No response is padded; without one, each call says that it takes another token for that.
            "pad_token_id": next(token for token in (config.pad_token_id, *ends, 0) if token is not None),
        }

    def own_random_state(self) -> AbstractContextManager[None]:
        """Return the context that leaves torch's random state as it is."""
        return torch.random.fork_rng(self._gpus)

    def prepare(self, lengths: Lengths, times: TokenTimes) -> Call:
        """Return the call that generates these responses; sampling begins anew with each block, so that all do the same."""
        ids = self._ids(lengths).to(self._model.device)
        options = {
            **self._options,
            "attention_mask": torch.ones_like(ids),
            "min_new_tokens": lengths.new_tokens,
            "max_new_tokens": lengths.new_tokens,
        }
        for generator in (torch.default_generator, *(torch.cuda.default_generators[gpu] for gpu in self._gpus)):
            generator.manual_seed(self._seed)

        def call() -> int:
            seen = _Seen()
            begun_ns = monotonic_clock()
            self._model.generate(ids, streamer=seen, **options)
            _, *tokens_ns = seen.times_ns  # it is first given the prompt
            if len(tokens_ns) != lengths.new_tokens:
                msg = (
                    f"The model generated {len(tokens_ns)} of {lengths.new_tokens} tokens; remove what ends it from its "
                    "generation_config, such as max_time or stop_strings."
                )
                raise ConfigurationError(msg)
            times.add(begun_ns, tokens_ns)
            return lengths.batch_size

        return call

    def _ids(self, lengths: Lengths) -> torch.Tensor:
        """Return prompts of shape (batch size, prompt tokens); one that is held back is the beginning of the longest one."""
        longest = self._given[max(self._given)]
        ids = self._given.get(lengths.prompt_tokens, longest and longest[: lengths.prompt_tokens])
        if ids is not None:
            return torch.tensor(ids).expand(lengths.batch_size, -1).contiguous()
        generator = torch.Generator().manual_seed(self._seed)
        shape = (lengths.batch_size, lengths.prompt_tokens)
        return torch.randint(_config(self._model).vocab_size, shape, generator=generator)


class _Seen(BaseStreamer):
    """Is given the prompt and each new token as soon as it is on the host, and notes when; it changes nothing."""

    def __init__(self) -> None:
        self.times_ns: list[int] = []

    def put(self, value: object) -> None:
        self.times_ns.append(monotonic_clock())

    def end(self) -> None:
        pass


def _config(model: Any) -> Any:
    return model.config.get_text_config()


def _check_model(model: Any) -> None:
    name = type(model).__name__
    if isinstance(model, type) or not callable(getattr(model, "can_generate", None)):
        msg = f"The model is a {name}; pass one of transformers, such as AutoModelForCausalLM.from_pretrained loads."
        raise ConfigurationError(msg)
    if not model.can_generate():
        msg = f"{name} does not generate text; pass a decoder, such as AutoModelForCausalLM.from_pretrained loads."
        raise ConfigurationError(msg)
    if model.config.is_encoder_decoder:
        msg = f"{name} has an encoder, and the law is one of decoders; pass a decoder, such as AutoModelForCausalLM loads."
        raise ConfigurationError(msg)


def _read_prompts(prompts: object, tokenizer: Any) -> dict[int, Sequence[int] | None]:
    """Return the ids of each prompt by their number, None where they are random."""
    if isinstance(prompts, str | Mapping) or not isinstance(prompts, Iterable):
        msg = f"prompts is {describe(prompts)}; give a list of lengths in tokens, such as [32, 128], of texts, or of ids."
        raise ConfigurationError(msg)
    found: dict[int, Sequence[int] | None] = {}
    for prompt in prompts:
        length, ids = _read_prompt(prompt, tokenizer)
        if length < 1:
            msg = f"The prompt {describe(prompt)} has no tokens; give prompts of at least one token."
            raise ConfigurationError(msg)
        if length in found:
            msg = f"Two prompts have {length} tokens; give prompts of different lengths."
            raise ConfigurationError(msg)
        found[length] = ids
    if not found:
        msg = "There is no prompt; give some, such as [32, 128] for random tokens."
        raise ConfigurationError(msg)
    return found


def _read_prompt(prompt: object, tokenizer: Any) -> tuple[int, Sequence[int] | None]:
    """Return the length of a prompt in tokens, and their ids, or None where they are random."""
    if not isinstance(prompt, bool) and isinstance(prompt, Integral):
        return int(prompt), None
    if not isinstance(prompt, str):
        try:
            ids = [index(token) for token in cast("Iterable[Any]", prompt)]
        except TypeError:
            msg = f"The prompt {describe(prompt)} is no prompt; give a length in tokens, a text, or ids of tokens."
            raise ConfigurationError(msg) from None
        return len(ids), ids
    if tokenizer is None:
        msg = "There are texts among the prompts and no tokenizer; pass the model's tokenizer, or lengths in tokens."
        raise ConfigurationError(msg)
    try:
        ids = [index(token) for token in tokenizer(prompt)["input_ids"]]
    except Exception as error:
        msg = f"The tokenizer failed ({type(error).__name__}: {error}); pass the model's own, such as AutoTokenizer loads."
        raise ConfigurationError(msg) from error
    return len(ids), ids


def _check_prompts(model: Any, given: Mapping[int, Sequence[int] | None], most_new: int) -> None:
    """Check that the model has positions for the longest response, and embeddings for each token."""
    config, longest = _config(model), max(given)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and longest + most_new > positions:
        msg = (
            f"A prompt of {longest} tokens with {most_new} new ones is longer than the {positions} tokens of the model; give "
            "shorter prompts or fewer new tokens."
        )
        raise ConfigurationError(msg)
    for ids in given.values():
        if ids is not None and not (min(ids) >= 0 and max(ids) < config.vocab_size):
            msg = f"A prompt has ids outside the {config.vocab_size} of the model's vocabulary; use the model's own tokenizer."
            raise ConfigurationError(msg)

"""Energy of generated text by batch size and lengths: what to measure, and the measurements as results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from ml_energy_callbacks.attribution.quantiles import Quantiles
from ml_energy_callbacks.exceptions import EnergyError
from ml_energy_callbacks.inference.costs import cost_fields, finding_fields, first_failure
from ml_energy_callbacks.inference.engine import Call, Case, Measured, measure_cases
from ml_energy_callbacks.inference.generation_results import GenerationCost, GenerationProfile
from ml_energy_callbacks.inference.law import Responses, fit_law
from ml_energy_callbacks.inference.options import bench_of, quiet_meter
from ml_energy_callbacks.inference.results import Interval
from ml_energy_callbacks.inference.student import interval
from ml_energy_callbacks.meter.summary import latency_record
from ml_energy_callbacks.readings import Backend
from ml_energy_callbacks.record.schema import RunRecord


@dataclass(frozen=True, slots=True)
class Lengths:
    """What is generated.

    Attributes:
        batch_size: Number of responses at once.
        prompt_tokens: Length of each prompt in tokens.
        new_tokens: Number of new tokens of each response; 1 is the prefill alone.
        held_back: Whether it is kept out of the law.
    """

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    held_back: bool = False

    def __str__(self) -> str:
        return f"batch size {self.batch_size} and {self.prompt_tokens}+{self.new_tokens} tokens"


class TokenTimes:
    """When the tokens of many calls came; in ns.

    Attributes:
        first: Times from a call to its first token.
        between: Times from one token to the next.
    """

    def __init__(self) -> None:
        """Begin without a call."""
        self.first = Quantiles()
        self.between = Quantiles()

    def add(self, begun_ns: int, tokens_ns: Sequence[int]) -> None:
        """Add a call: when it began, and when each of its tokens came."""
        self.first.add(tokens_ns[0] - begun_ns)
        for earlier, later in pairwise(tokens_ns):
            self.between.add(later - earlier)


Prepare = Callable[[Lengths, TokenTimes], Call]
"""Returns the call that generates such responses, and adds the times of their tokens; it may raise, like the call."""


def lengths_to_measure(prompts: Sequence[int], batch_sizes: Sequence[int], new_tokens: Sequence[int]) -> list[Lengths]:
    """Return what to measure: each prompt with each number of new tokens and with 1, and lengths between that are held back.

    Those are midway between neighbours: the shortest such prompt with the most such new tokens, and the longest one with the
    fewest.
    """
    counts = sorted({1, *new_tokens})
    prompts_between, counts_between = _midway(sorted(prompts)), _midway(counts)
    held_back: set[tuple[int, int]] = set()
    if prompts_between and counts_between:
        held_back = {(prompts_between[0], counts_between[-1]), (prompts_between[-1], counts_between[0])}
    return [
        lengths
        for size in batch_sizes
        for lengths in (
            *(Lengths(size, prompt, count) for prompt in prompts for count in counts),
            *(Lengths(size, prompt, count, held_back=True) for prompt, count in sorted(held_back)),
        )
    ]


def _midway(lengths: Sequence[int]) -> list[int]:
    """Return the lengths midway between neighbours, without those that are neighbours themselves."""
    return [(low + high) // 2 for low, high in pairwise(lengths) if high - low > 1]


@dataclass(slots=True)
class GenerationCase:
    """The calls of one case of the measurement.

    Attributes:
        lengths: What they generate.
        start: Makes them.
        times: When their tokens came, without those of the first block, which warms up.
        blocks: Number of blocks so far.
    """

    lengths: Lengths
    start: Prepare
    times: TokenTimes = field(default_factory=TokenTimes)
    blocks: int = 0

    def prepare(self) -> Call:
        """Return the calls of the next block."""
        self.blocks += 1
        return self.start(self.lengths, self.times if self.blocks > 1 else TokenTimes())


def profile_lengths(
    lengths: Sequence[Lengths],
    prepare: Prepare,
    *,
    do_sample: bool,
    relative_width: float,
    max_seconds: float,
    devices: Literal["auto"] | Sequence[str],
    backends: Sequence[Backend] | None,
    seed: int,
    progress: Callable[[GenerationProfile], None] | None,
) -> GenerationProfile:
    """Measure the energy of responses of these lengths; the options are those of ``profile_generation``.

    Raises:
        EnergyError: None could be measured, because each raised an error.
    """
    cases = [GenerationCase(each, prepare) for each in lengths]

    def summarize(measured: Measured, record: RunRecord) -> GenerationProfile:
        found = finding_fields(measured, record, relative_width)
        return GenerationProfile(do_sample=do_sample, **result_fields(cases, measured, relative_width), **found)

    def report_progress(measured: Measured) -> None:
        if progress is not None:
            progress(summarize(measured, meter.record))

    with quiet_meter(devices, backends) as meter:
        bench = bench_of(meter)
        measured = measure_cases(
            [Case(str(each.lengths), each.prepare) for each in cases],
            bench,
            relative_width=relative_width,
            max_seconds=max_seconds,
            seed=seed,
            progress=report_progress,
        )
    if (failure := first_failure(measured.series)) is not None:
        msg = f"Nothing could be generated. At {failure}."
        raise EnergyError(msg)
    return summarize(measured, meter.record)


def result_fields(cases: Sequence[GenerationCase], measured: Measured, relative_width: float) -> dict[str, Any]:
    """Return the fields ``cases`` and ``laws`` of a :class:`GenerationProfile`."""
    joules = {case.lengths: series.joules_per_sample for case, series in zip(cases, measured.series, strict=True)}
    costs = []
    for case, series in zip(cases, measured.series, strict=True):
        fields = cost_fields(series, measured.idle_watts, relative_width)
        costs.append(_cost(case, fields, joules.get(replace(case.lengths, new_tokens=1)), joules[case.lengths]))
    sizes = dict.fromkeys(case.lengths.batch_size for case in cases)
    return {"cases": costs, "laws": [fit_law(size, _responses(joules, size)) for size in sizes]}


def _responses(joules: Mapping[Lengths, Mapping[int, float]], batch_size: int) -> list[Responses]:
    return [
        Responses(each.prompt_tokens, each.new_tokens, found, held_back=each.held_back)
        for each, found in joules.items()
        if each.batch_size == batch_size
    ]


def _cost(
    case: GenerationCase, fields: Mapping[str, Any], prefill: Mapping[int, float] | None, whole: Mapping[int, float]
) -> GenerationCost:
    """Return the results of a case.

    Args:
        case: The case.
        fields: Fields of a :class:`Cost`.
        prefill: Energy of a response of one token with this prompt in J by round; None where it is not measured.
        whole: Energy of a response in J by round.
    """
    lengths, prefill, throughput = case.lengths, prefill or {}, fields["samples_per_second"]
    common = whole.keys() & prefill.keys() if lengths.new_tokens > 1 else ()
    return GenerationCost(
        new_tokens_per_second=None if throughput is None else _scaled(throughput, lengths.new_tokens),
        time_per_new_token=latency_record(case.times.between),
        time_to_first_token=latency_record(case.times.first),
        joules_per_new_token=interval([(whole[i] - prefill[i]) / (lengths.new_tokens - 1) for i in common]),
        joules_per_prompt_token=interval([joules / lengths.prompt_tokens for joules in prefill.values()]),
        held_back=lengths.held_back,
        new_tokens=lengths.new_tokens,
        prompt_tokens=lengths.prompt_tokens,
        batch_size=lengths.batch_size,
        **fields,
    )


def _scaled(found: Interval, factor: float) -> Interval:
    half = found.half_width
    return Interval(mean=found.mean * factor, half_width=None if half is None else half * factor)

"""The results of a profile of generation: data classes, written as JSON by ``record.load.dump_json``."""

import msgspec

from ml_energy_callbacks.inference.results import Cost, Findings, Interval
from ml_energy_callbacks.record.schema import LatencyRecord


def terms(prompt_tokens: float, new_tokens: float) -> tuple[float, float, float, float]:
    """Return what a, b, c and d of the law are multiplied by.

    The new token number k reads a context of prompt + k tokens, and all of them together read new x (prompt + new / 2).
    """
    return 1.0, prompt_tokens, new_tokens, new_tokens * (prompt_tokens + new_tokens / 2)


class GenerationCost(Cost, kw_only=True):
    """The results for one batch size, prompt length and number of new tokens.

    A sample is a response, and ``latency`` is that of a call, which generates a batch of them.

    Attributes:
        new_tokens_per_second: Throughput in new tokens per s of all responses of a batch together; None if nothing was
            measured.
        time_per_new_token: Time from one token of a response to the next, where ``batches`` counts tokens; None for one token.
        time_to_first_token: Time from the call to the first token, where ``batches`` counts calls; None if nothing was
            measured.
        joules_per_new_token: Energy of a new token in J, without the first one: what the response takes beyond the prefill, as
            a mean over its tokens. None for one token, and where energy or prefill was not measured.
        joules_per_prompt_token: Energy of the prefill in J per token of the prompt. The prefill is a response of one token,
            which was measured by itself. None where it was not, as for lengths that are held back.
        held_back: Whether these lengths are kept out of the law, to check it.
        new_tokens: Number of new tokens of a response.
        prompt_tokens: Length of the prompt in tokens.
        batch_size: Number of responses that are generated at once.
    """

    new_tokens_per_second: Interval | None
    time_per_new_token: LatencyRecord | None
    time_to_first_token: LatencyRecord | None
    joules_per_new_token: Interval | None
    joules_per_prompt_token: Interval | None
    held_back: bool
    new_tokens: int
    prompt_tokens: int
    batch_size: int


class Coefficient(msgspec.Struct, kw_only=True):
    """A coefficient of the law.

    Attributes:
        joules: Its value in J, from 0 upwards.
        low_joules: Lower end of its 95 % interval; 0 where it is not resolved. None where there is a single repeat.
        high_joules: Upper end, or None.
    """

    joules: float
    low_joules: float | None
    high_joules: float | None


class HeldBack(msgspec.Struct, kw_only=True):
    """Lengths that the law was not fitted to.

    Attributes:
        prompt_tokens: Length of the prompt in tokens.
        new_tokens: Number of new tokens.
        joules: The measured energy of a response in J.
        predicted_joules: That of the law, in J.
        relative_error: ``predicted_joules`` divided by the measured mean, minus 1.
    """

    prompt_tokens: int
    new_tokens: int
    joules: Interval
    predicted_joules: float
    relative_error: float


class Law(msgspec.Struct, kw_only=True):
    """Energy of a response at one batch size: J = a + b x prompt + c x new + d x new x (prompt + new / 2).

    Attributes:
        batch_size: The batch size; the energy of a batch is that of so many responses.
        a: Energy of a response beside its tokens, in J; None where the law could not be fitted, as the others.
        b: Energy of a prompt token, in J.
        c: Energy of a new token, in J.
        d: Energy of a new token for each token of its context, in J.
        held_back: The law's error at lengths that were kept out of the fit.
        reason: Why something is unknown; else None.
    """

    batch_size: int
    a: Coefficient | None
    b: Coefficient | None
    c: Coefficient | None
    d: Coefficient | None
    held_back: list[HeldBack]
    reason: str | None

    @property
    def error(self) -> float | None:
        """The largest relative error at lengths that were held back, as a fraction; None without any."""
        return max((abs(each.relative_error) for each in self.held_back), default=None)

    def joules(self, prompt_tokens: float, new_tokens: float) -> float | None:
        """Return the energy of a response with these lengths in J; None where the law is unknown.

        Beyond the lengths that were measured it is an extrapolation, which nothing has checked.
        """
        total = 0.0
        for coefficient, term in zip((self.a, self.b, self.c, self.d), terms(prompt_tokens, new_tokens), strict=True):
            if coefficient is None:
                return None
            total += coefficient.joules * term
        return total


class GenerationProfile(Findings, kw_only=True):
    """Energy of generated text by batch size and lengths.

    Attributes:
        cases: The results by batch size, prompt length and number of new tokens; one token is the prefill.
        laws: The law of each batch size.
        do_sample: Whether tokens were sampled; else the most likely one was taken.
    """

    cases: list[GenerationCost]
    laws: list[Law]
    do_sample: bool

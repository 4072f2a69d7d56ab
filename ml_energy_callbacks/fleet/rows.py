"""A run record as a flat row."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from ml_energy_callbacks.record.build import recorded_energy
from ml_energy_callbacks.record.schema import RunRecord, StageRecord


class Row(msgspec.Struct, kw_only=True, frozen=True):
    """A run as one row of flat columns; unknown values are None.

    Attributes:
        file: Path or URL of its record.
        run_id: Random identifier of the run.
        within: Identifier of the run of ``ml-energy run`` that includes the energy of this one.
        started_at: Wall-clock start, ISO 8601 with offset.
        month: Year and month of that start, such as ``2026-11``.
        status: ``running`` (or killed), ``completed``, ``stopped`` or ``failed``.
        framework: Name and version.
        host: Hosts whose devices are included, separated by commas.
        world_size: Number of processes of the job.
        model: Name of the model.
        tags: The user's tags as a JSON object, sorted by name; None if there are none.
        seconds: Time of all stages in s.
        joules: Energy of all stages in J.
        relative_uncertainty: Half-width of the 95 % interval of ``joules`` as a share of it.
        incomplete: Whether processes of the job reported no data, or a device of the run could not be read: ``joules``,
            emissions and cost are then lower bounds.
        estimated_joules: Part of ``joules`` that was estimated by a model, in J; the rest is measured.
        co2e_grams: Emissions in g CO2e.
        intensity_assumed: Whether they are based, at least in part, on the world average, because no location was set.
        cost: Cost of the electricity in ``currency``.
        currency: Three-letter code; None if the cost is unknown.
        train_joules: Energy of the training samples in J, excluding compilation as in ``joules_per_sample``.
        train_samples: Number of those samples; known if ``train_joules`` is.
        train_token_joules: The same energy, where the training tokens are known.
        train_tokens: Number of those tokens; known if ``train_token_joules`` is.
        train_relative_uncertainty: Half-width of the 95 % interval of both energies as a share of them.
        predict_joules: The same for the stage ``predict``.
        predict_samples: The same.
        predict_token_joules: The same.
        predict_tokens: The same.
        predict_relative_uncertainty: The same.
    """

    file: str
    run_id: str
    within: str | None = None
    started_at: str
    month: str
    status: str
    framework: str
    host: str
    world_size: int
    model: str | None
    tags: str | None
    seconds: float
    joules: float | None
    relative_uncertainty: float | None
    incomplete: bool
    estimated_joules: float | None
    co2e_grams: float | None
    intensity_assumed: bool
    cost: float | None
    currency: str | None
    train_joules: float | None
    train_samples: int | None
    train_token_joules: float | None
    train_tokens: int | None
    train_relative_uncertainty: float | None
    predict_joules: float | None
    predict_samples: int | None
    predict_token_joules: float | None
    predict_tokens: int | None
    predict_relative_uncertainty: float | None


def make_row(record: RunRecord, file: str) -> Row:
    """Return a run as a row."""
    run, total = record.run, record.total
    return Row(
        file=file,
        run_id=run.id,
        within=run.within,
        started_at=run.started_at,
        month=datetime.fromisoformat(run.started_at).strftime("%Y-%m"),
        status=run.status,
        framework=run.framework,
        host=", ".join(run.hostnames),
        world_size=run.world_size,
        model=run.model,
        tags=msgspec.json.encode(run.tags, order="sorted").decode() if run.tags else None,
        seconds=total.seconds,
        joules=total.joules,
        relative_uncertainty=total.relative_uncertainty,
        incomplete=record.lower_bound,
        estimated_joules=None if total.joules is None else _estimated_joules(record),
        co2e_grams=total.co2e_grams,
        intensity_assumed=record.carbon.assumed,
        cost=total.cost,
        currency=None if total.cost is None else total.currency,
        **{f"{name}_{column}": value for name in ("train", "predict") for column, value in _columns(record.stages.get(name))},
    )


def _estimated_joules(record: RunRecord) -> float:
    return sum(device.joules or 0.0 for device in record.devices if device.provenance == "estimated")


def _columns(stage: StageRecord | None) -> Iterator[tuple[str, Any]]:
    """Yield the columns of a stage: the energy of its samples and of its tokens, their numbers, and its uncertainty."""
    samples = tokens = joules = None
    if stage is not None:
        samples = None if stage.samples is None or stage.joules_per_sample is None else stage.samples - stage.compile_samples
        tokens = None if stage.tokens is None or stage.joules_per_token is None else stage.tokens - stage.compile_tokens
        joules = recorded_energy(stage).sampled_joules
    yield "joules", None if samples is None else joules
    yield "samples", samples
    yield "token_joules", None if tokens is None else joules
    yield "tokens", tokens
    yield "relative_uncertainty", None if stage is None or samples is tokens is None else stage.relative_uncertainty

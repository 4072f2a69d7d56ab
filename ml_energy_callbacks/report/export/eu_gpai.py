"""The energy and compute of a general-purpose AI model for the EU's AI Act: Annex XI and the Model Documentation Form.

The items are those of the Model Documentation Form (Code of Practice for General-Purpose AI Models, chapter Transparency, of
10 July 2025) on Annex XI, section 1, point 2 (d) and (e) of Regulation (EU) 2024/1689. The Regulation's text is the official
one; the form's items, units and digits are second-hand, from public transcripts of the form.
"""

from collections.abc import Iterator, Sequence
from math import floor, log10
from typing import TypeVar

import msgspec

from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.record.load import dump_json
from ml_energy_callbacks.record.schema import DeviceRecord, RunRecord, StageRecord
from ml_energy_callbacks.report.export.subject import DEVELOPMENT, Energy, Subject, names_of
from ml_energy_callbacks.report.export.texts import (
    figures,
    hardware_of,
    markdown_text,
    method_of,
    run_lines,
    with_doubt,
)

_Value = TypeVar("_Value", str, int, float)

_JOULES_PER_MWH = 3.6e9
_SECONDS_PER_DAY = 86400.0
_DAYS_PER_MONTH = 30.4375
_RANGES = ((1, "less than 1 month"), (3, "1 to 3 months"), (6, "3 to 6 months"))
_LONGER = "more than 6 months"
_ACCELERATORS = ("gpu", "tpu", "soc")

_FORM = "Model Documentation Form of the Code of Practice for General-Purpose AI Models (10 July 2025), chapter Transparency"
_NO_TASK = "no task of inference was benchmarked"

_BASIS = "Regulation (EU) 2024/1689, Annex XI, section 1, point 2 (d) and (e)"


class TrainingTime(msgspec.Struct, kw_only=True, frozen=True):
    """Training time: ``range`` is for national authorities, the days are for the AI Office.

    ``wall_clock_days`` adds up all runs, one after the other; ``hardware_days`` is that of each accelerator, or of each
    processor of a run without one.
    """

    range: str
    wall_clock_days: float
    hardware_days: float | str
    hardware: str


class Computation(msgspec.Struct, kw_only=True, frozen=True):
    """Computation of all training in floating-point operations (FLOP): for national authorities, their power of ten."""

    flop: float | str
    order_of_magnitude: int | str
    method: str


class Benchmark(msgspec.Struct, kw_only=True, frozen=True):
    """Computation of a task of inference in FLOP."""

    flop: float | str
    task: str
    hardware: str


class EnergyItem(msgspec.Struct, kw_only=True, frozen=True):
    """Energy in MWh with its 95 % interval and its method."""

    mwh: float | str
    mwh_low: float | str
    mwh_high: float | str
    lower_bound: bool
    provenance: str
    method: str


class GpaiItems(msgspec.Struct, kw_only=True, frozen=True):
    """The items; what is unknown is ``N/A:`` with the reason. The form does not ask for ``inference_energy``."""

    form: str
    legal_basis: str
    model: str
    training_time: TrainingTime
    training_computation: Computation
    training_energy: EnergyItem
    inference_computation: Benchmark
    inference_energy: EnergyItem
    runs: list[str]


def eu_gpai_json(subject: Subject) -> str:
    """Return the items as JSON.

    Raises:
        RecordError: No run has stages of training.
        ConfigurationError: The runs are of several models.
    """
    return dump_json(_items(subject)) + "\n"


def eu_gpai_markdown(subject: Subject) -> str:
    """Return the items as Markdown, as :func:`eu_gpai_json`."""
    return "\n".join(_lines(subject)) + "\n"


def _items(subject: Subject) -> GpaiItems:
    if not any(_is_training(run, stage) for run, stage in subject.stages("training", "other")):
        msg = "No run has a stage train, but the form asks for the energy and the time of training."
        raise RecordError(msg)
    facts = subject.facts
    return GpaiItems(
        form=_FORM,
        legal_basis=_BASIS,
        model=_or_unknown(subject.model, "no record has a name of the model"),
        training_time=_training_time(subject),
        training_computation=_computation(subject.training_flops, subject.flops_method),
        training_energy=_energy_item(subject.energy(*DEVELOPMENT), method_of(subject, *DEVELOPMENT), "training"),
        inference_computation=Benchmark(
            flop=_or_unknown(facts.inference_flops, "the FLOP of a task of inference were not counted"),
            task=_or_unknown(facts.inference_task, _NO_TASK),
            hardware=_inference_hardware(subject),
        ),
        inference_energy=_energy_item(subject.energy("inference"), method_of(subject, "inference"), "inference"),
        runs=run_lines(subject),
    )


def _is_training(run: RunRecord, stage: StageRecord) -> bool:
    """Return whether a stage is of training; other tools do not tell that apart, so that all of an imported run may be."""
    return stage.seconds > 0 and (stage is run.stages.get("train") or run.imported is not None)


def _training_time(subject: Subject) -> TrainingTime:
    seconds = subject.energy(*DEVELOPMENT).seconds
    days = seconds / _SECONDS_PER_DAY
    runs = subject.runs_of(*DEVELOPMENT)
    hardware_days = 0.0
    for run, stage in subject.stages(*DEVELOPMENT):
        hardware_days += stage.seconds / _SECONDS_PER_DAY * sum(device.count for device in _counted(run.devices))
    hardware = "; ".join(dict.fromkeys(names_of(_counted(run.devices)) for run in runs if run.devices))
    uncounted = "no accelerator or processor is in the records"
    return TrainingTime(
        range=next((text for months, text in _RANGES if days < months * _DAYS_PER_MONTH), _LONGER),
        wall_clock_days=days,
        hardware_days=hardware_days or _unknown(uncounted),
        hardware=hardware or _unknown(uncounted),
    )


def _counted(devices: Sequence[DeviceRecord]) -> list[DeviceRecord]:
    """Return the accelerators, or the processors where there are none."""
    return [device for device in devices if device.kind in _ACCELERATORS] or [
        device for device in devices if device.kind == "cpu"
    ]


def _computation(flop: float | None, method: str | None) -> Computation:
    uncounted = "the FLOP of the training were not counted"
    return Computation(
        flop=_or_unknown(flop, uncounted),
        order_of_magnitude=_or_unknown(None if flop is None else floor(log10(flop)), uncounted),
        method=_or_unknown(method, "how the FLOP were counted is not stated"),
    )


def _energy_item(energy: Energy, method: str, of: str) -> EnergyItem:
    nothing = _unknown(f"no energy of {of} is in the records")
    without = _unknown("the uncertainty of a part is unknown")
    low, high = energy.interval or (None, None)
    return EnergyItem(
        mwh=nothing if energy.joules is None else energy.joules / _JOULES_PER_MWH,
        mwh_low=nothing if energy.joules is None else without if low is None else low / _JOULES_PER_MWH,
        mwh_high=nothing if energy.joules is None else without if high is None else high / _JOULES_PER_MWH,
        lower_bound=energy.lower_bound,
        provenance=energy.provenance or nothing,
        method=nothing if energy.joules is None else method,
    )


def _inference_hardware(subject: Subject) -> str:
    facts = subject.facts
    if facts.inference_hardware is not None or facts.inference_task is None:
        return _or_unknown(facts.inference_hardware, _NO_TASK)
    predicting = subject.runs_of("inference")
    return hardware_of(predicting) if predicting else _unknown("no run has a stage predict")


def _or_unknown(value: _Value | None, reason: str) -> _Value | str:
    return _unknown(reason) if value is None else value


def _unknown(reason: str) -> str:
    return f"N/A: {reason}"


def _lines(subject: Subject) -> Iterator[str]:
    """Yield the lines of the Markdown."""
    items = _items(subject)
    time, training, inference = items.training_time, items.training_computation, items.inference_computation
    yield f"# Energy and compute of {markdown_text(items.model)}"
    yield ""
    yield f"Items of the {items.form}; {items.legal_basis}."
    yield ""
    yield "| item | value |"
    yield "|---|---|"
    rows = (
        ("Training time (range)", time.range),
        ("Training time (wall clock days)", figures(time.wall_clock_days)),
        ("Training time (hardware days)", f"{_shown(time.hardware_days)} ({time.hardware})"),
        ("Amount of computation used for training (order of magnitude)", _magnitude(training.order_of_magnitude)),
        ("Amount of computation used for training (FLOP)", _shown(training.flop)),
        ("Measurement methodology of the computation", training.method),
        ("Amount of energy used for training (MWh)", _energy_text(subject.energy(*DEVELOPMENT), items.training_energy)),
        ("Benchmarked amount of computation used for inference (FLOP)", _shown(inference.flop)),
        ("Task of the benchmark", inference.task),
        ("Hardware of the benchmark", inference.hardware),
        (
            "Energy of inference (MWh; not an item of the form)",
            _energy_text(subject.energy("inference"), items.inference_energy),
        ),
    )
    for name, value in rows:
        yield f"| {name} | {markdown_text(value)} |"
    yield ""
    yield f"**Measurement methodology of the energy used for training:** {markdown_text(items.training_energy.method)}"
    yield ""
    if subject.energy("inference").joules is not None:
        yield f"**Measurement methodology of the energy of inference:** {markdown_text(items.inference_energy.method)}"
        yield ""
    yield "Runs that are included:"
    yield ""
    for run in items.runs:
        yield f"- {markdown_text(run)}"


def _magnitude(power: int | str) -> str:
    return power if isinstance(power, str) else f"10^{power} FLOP"


def _energy_text(energy: Energy, item: EnergyItem) -> str:
    return item.mwh if isinstance(item.mwh, str) else f"{with_doubt(energy, item.mwh, 'MWh')} ({item.provenance})"


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else figures(value)

"""The AI Energy Score's fields, for runs that followed its protocol.

The protocol and fields are those of https://github.com/huggingface/AIEnergyScore (December 2025): 1,000 queries of a task's
dataset, one by one, ten times, on NVIDIA H100 GPUs with 80 GB; the score is the mean energy of the GPUs alone.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.metrics import JOULES_PER_WH
from ml_energy_callbacks.record.schema import DeviceRecord, RunRecord, StageRecord
from ml_energy_callbacks.report.export.facts import require
from ml_energy_callbacks.report.export.subject import Subject
from ml_energy_callbacks.report.export.texts import TOOL, run_line, tool_version
from ml_energy_callbacks.safe_text import csv_cell, json_source

_COLUMNS = (
    "model_name", "model_class", "task", "reasoning_state", "total_prompts", "successful_prompts", "failed_prompts",
    "total_duration_seconds", "avg_total_time", "avg_time_to_first_token", "total_tokens", "total_prompt_tokens",
    "total_completion_tokens", "throughput_tokens_per_second", "gpu_energy_wh", "wh_per_1000_queries", "co2_emissions_g",
    "tokens_per_joule", "avg_energy_per_prompt_wh", "timestamp", "error_message",
)  # fmt: skip
"""Columns of its ``results_aggregator.py``; what a record does not know is empty."""

_QUERIES, _REPEATS = 1000, 10
_TASKS = (
    "text_generation", "reasoning", "summarization", "question_answering", "text_classification", "sentence_similarity",
    "image_classification", "object_detection", "automatic_speech_recognition", "image_generation", "image_captioning",
)  # fmt: skip
_DATASETS = ("AIEnergyScore/", "EnergyStarAI/")
_PHASES = ("preprocess", "prefill", "decode")
_SINGLE = ("A", "B")
"""Classes of models that have to be tested on one GPU."""


def ai_energy_score_csv(subject: Subject) -> str:
    """Return a row for each of the ten runs, as CSV.

    Raises:
        RecordError: The runs did not follow the protocol.
        ConfigurationError: The model, the task or the dataset is unknown.
    """
    named = _named(subject)
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run in _checked(subject):
        row = {**named, **_row(run)}
        writer.writerow({name: csv_cell(cell) if isinstance(cell := row.get(name), str) else cell for name in _COLUMNS})
    return text.getvalue()


def ai_energy_score_json(subject: Subject) -> str:
    """Return the summary as JSON: the mean of the ten runs in Wh for 1,000 queries, and of phases that are sub-stages.

    Raises:
        RecordError: As :func:`ai_energy_score_csv`.
        ConfigurationError: The same.
    """
    named, runs = _named(subject), _checked(subject)
    values = [_wh(run, run.stages["predict"]) for run in runs]
    parts = {phase: [run.stages["predict"].substages.get(phase) for run in runs] for phase in _PHASES}
    doubts = [device.relative_uncertainty for run in runs for device in _gpus(run)]
    summary = {
        "units": "Wh",
        "total": mean(values),
        "format": f"{TOOL} {tool_version()}",
        **{
            f"{phase}_wh": mean(_wh(run, stage) for run, stage in zip(runs, stages, strict=True) if stage is not None)
            for phase, stages in parts.items()
            if None not in stages
        },
        **{name: text for name, text in named.items() if text is not None},
        "dataset": subject.facts.dataset,
        "standard_deviation": stdev(values),
        "relative_uncertainty": None if None in doubts else max(each for each in doubts if each is not None),
        "runs": [run_line(run) for run in runs],
    }
    return json_source(json.dumps(summary, indent=1, ensure_ascii=False)) + "\n"


def _named(subject: Subject) -> dict[str, str | None]:
    facts = subject.facts
    known = require("The AI Energy Score", model=subject.model, task=facts.task, dataset=facts.dataset)
    return {
        "model_name": known["model"],
        "model_class": facts.model_class,
        "task": known["task"],
        "reasoning_state": facts.reasoning,
    }


def _checked(subject: Subject) -> Sequence[RunRecord]:
    """Return the runs.

    Raises:
        RecordError: They did not follow the protocol.
    """
    why = _breach(subject)
    if why is not None:
        msg = f"The protocol of the AI Energy Score was not followed: {why}."
        raise RecordError(msg)
    return subject.runs


def _breach(subject: Subject) -> str | None:
    """Return what was not as in the protocol, or None."""
    facts = subject.facts
    if facts.task not in _TASKS:
        return f"{facts.task} is none of its tasks ({', '.join(_TASKS)})"
    if not (facts.dataset or "").startswith(_DATASETS):
        return f"the dataset {facts.dataset} is none of its own, which begin with {_DATASETS[0]}"
    if len(subject.runs) != _REPEATS:
        return f"it asks for {_REPEATS} runs, and {len(subject.runs)} are given"
    found = ((run, _breach_of(subject, run)) for run in subject.runs)
    return next((f"run {run.run.id[:8]} {why}" for run, why in found if why is not None), None)


def _breach_of(subject: Subject, run: RunRecord) -> str | None:
    stage, gpus = run.stages.get("predict"), _gpus(run)
    if run.run.status != "completed":
        return f"is {run.run.status}, not completed"
    if stage is None or stage.samples != _QUERIES or stage.batches != _QUERIES:
        made = "no" if stage is None else f"{stage.samples} in {stage.batches} batches"
        return f"has {made} predictions, and it asks for {_QUERIES:,} one by one"
    if not gpus or any("H100" not in gpu.name or "NVL" in gpu.name for gpu in gpus):
        return f"used {', '.join(gpu.name for gpu in gpus) or 'no GPU'}, and it asks for NVIDIA H100 with 80 GB"
    if len(gpus) > 1 and subject.facts.model_class in _SINGLE:
        return f"used {len(gpus)} GPUs, and it asks for one with class {subject.facts.model_class}"
    if any(gpu.provenance != "measured" or gpu.id not in stage.devices for gpu in gpus) or subject.lacks_energy(run):
        return "has energy of GPUs that was not measured"
    return None


def _gpus(run: RunRecord) -> list[DeviceRecord]:
    return [device for device in run.devices if device.kind == "gpu"]


def _wh(run: RunRecord, stage: StageRecord) -> float:
    """Return the energy of the GPUs in a stage in Wh."""
    return sum(stage.devices.get(gpu.id, 0.0) for gpu in _gpus(run)) / JOULES_PER_WH


def _row(run: RunRecord) -> Mapping[str, Any]:
    stage = run.stages["predict"]
    watt_hours, tokens = _wh(run, stage), stage.tokens
    joules, compute = watt_hours * JOULES_PER_WH, stage.phases.get("compute")
    grams = None if stage.co2e_grams is None or not stage.joules else stage.co2e_grams * joules / stage.joules
    return {
        "total_prompts": _QUERIES,
        "successful_prompts": _QUERIES,
        "failed_prompts": 0,
        "total_duration_seconds": stage.seconds,
        "avg_total_time": None if compute is None or compute.seconds is None else compute.seconds / _QUERIES,
        "total_tokens": tokens,
        "throughput_tokens_per_second": None if tokens is None or not stage.seconds else tokens / stage.seconds,
        "gpu_energy_wh": watt_hours,
        "wh_per_1000_queries": watt_hours / _QUERIES * 1000,
        "co2_emissions_g": grams,
        "tokens_per_joule": None if tokens is None or not joules else tokens / joules,
        "avg_energy_per_prompt_wh": watt_hours / _QUERIES,
        "timestamp": run.run.ended_at or run.run.started_at,
    }

"""What an export needs and no run record knows: facts about the model and its provider, which the user gives."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.report.export import Format
from ml_energy_callbacks.safe_text import describe

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e50)]
_DateTime = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]


class Facts(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Facts about a model; each is None where it is unknown, and then left out, or asked for where a format requires it.

    Attributes:
        model: Name of the model; else that of the records, if they agree.
        version: Version of the model.
        supplier: Organization that supplies the model.
        license: Licence of the model, an SPDX expression such as ``Apache-2.0``.
        released: Time of its release in UTC, such as ``2026-11-30T00:00:00Z``.
        download: URL from which it can be downloaded.
        training_type: ``pre-training`` or ``fine-tuning``: what the stage ``train`` of the runs is.
        parameters: Number of parameters of the model.
        flops: Floating-point operations of all training.
        flops_method: How ``flops`` is known, in a sentence.
        inference_flops: Floating-point operations of ``inference_task``.
        inference_task: A task of inference, such as ``generating 100,000 tokens``.
        inference_hardware: Hardware for ``inference_task``, such as ``64 NVIDIA A100``; else that of the stage ``predict``.
        energy_provider: Organization that provides the electricity.
        energy_source: What its electricity is made from, as CycloneDX names it.
        functional_unit: What a sample of the stage ``predict`` is, such as ``image``; else ``inference``.
        rationale: Why the functional units were chosen.
        task: Task: of BoAmps, its family such as ``image classification``; of the AI Energy Score, one of its tasks.
        data_type: Kind of the samples, as BoAmps names it.
        infrastructure: Kind of the infrastructure, as BoAmps names it.
        publisher: Organization that publishes the report.
        confidentiality: Confidentiality of the report, as BoAmps names it.
        dataset: Dataset of the predictions, such as ``AIEnergyScore/text_generation``.
        model_class: Class of the model in the AI Energy Score: ``A``, ``B`` or ``C``.
        reasoning: Whether a model reasons, in the words of the AI Energy Score, such as ``On (High)``.
    """

    model: _Text | None = None
    version: _Text | None = None
    supplier: _Text | None = None
    license: _Text | None = None
    released: _DateTime | None = None
    download: _Text | None = None
    training_type: Literal["pre-training", "fine-tuning"] | None = None
    parameters: _Positive | None = None
    flops: _Positive | None = None
    flops_method: _Text | None = None
    inference_flops: _Positive | None = None
    inference_task: _Text | None = None
    inference_hardware: _Text | None = None
    energy_provider: _Text | None = None
    energy_source: (
        Literal[
            "coal", "oil", "natural-gas", "nuclear", "wind", "solar", "geothermal", "hydropower", "biofuel", "unknown", "other"
        ]
        | None
    ) = None
    functional_unit: _Text | None = None
    rationale: _Text | None = None
    task: _Text | None = None
    data_type: Literal["tabular", "audio", "boolean", "image", "video", "object", "text", "token", "word", "other"] | None = (
        None
    )
    infrastructure: Literal["publicCloud", "privateCloud", "onPremise", "other"] | None = None
    publisher: _Text | None = None
    confidentiality: Literal["public", "internal", "confidential", "secret"] | None = None
    dataset: _Text | None = None
    model_class: Literal["A", "B", "C"] | None = None
    reasoning: _Text | None = None


_KINDS = {field.name: field.type for field in msgspec.structs.fields(Facts)}
_IN_WORDS = ((_Positive, "a number above 0"), (_DateTime, "a time in UTC such as 2026-11-30T00:00:00Z"), (_Text, "a text"))

_CYCLONEDX = ("model", "version", "supplier", "training_type", "energy_provider", "energy_source")
_EU_GPAI = ("model", "flops", "flops_method", "inference_flops", "inference_task", "inference_hardware")
_SCORE = ("model", "task", "dataset", "model_class", "reasoning")

NAMES: Mapping[Format, Sequence[str]] = {
    Format.CODECARBON_CSV: ("model",),
    Format.MODEL_CARD: ("model", "training_type"),
    Format.SCI_JSON: (),
    Format.CYCLONEDX: _CYCLONEDX,
    Format.CYCLONEDX_1_7: _CYCLONEDX,
    Format.SCI_AI: ("model", "parameters", "flops", "functional_unit", "rationale"),
    Format.SPDX: ("model", "version", "supplier", "license", "released", "download", "training_type"),
    Format.BOAMPS: (
        "model", "task", "data_type", "infrastructure", "training_type", "parameters", "publisher", "confidentiality"
    ),
    Format.EU_GPAI: _EU_GPAI,
    Format.EU_GPAI_JSON: _EU_GPAI,
    Format.AI_ENERGY_SCORE: _SCORE,
    Format.AI_ENERGY_SCORE_JSON: _SCORE,
}  # fmt: skip
"""The facts that each format has a place for."""


_EXAMPLES: Mapping[str, str] = {
    "model": "ResNet",
    "version": "1.0",
    "supplier": "Acme",
    "energy_provider": "'Acme Power'",
    "released": "2026-11-30T00:00:00Z",
    "download": "https://example.org/model",
    "task": "'image classification'",
    "data_type": "image",
    "infrastructure": "onPremise",
    "confidentiality": "public",
    "dataset": "AIEnergyScore/image_classification",
}


def parse_facts(pairs: Sequence[str], form: Format) -> Facts:
    """Return facts from texts such as ``model=ResNet``.

    Raises:
        ConfigurationError: A text has no ``=``, its name is none of the format's or given twice, or its value is impossible.
    """
    given: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in NAMES[form] or name in given:
            names = ", ".join(NAMES[form])
            why = "is given twice" if name in given else f"is none of {form}" if equals else "has no value"
            has = f"give {names} once each, such as --set {NAMES[form][0]}=..." if names else "it takes none"
            msg = f"--set {describe(pair)} {why}; {has}."
            raise ConfigurationError(msg)
        try:
            given[name] = msgspec.convert(value.strip(), _KINDS[name], strict=False)
        except msgspec.ValidationError:
            msg = f"--set {describe(pair)} is impossible; {name} is {_kind_of(name)}."
            raise ConfigurationError(msg) from None
    return Facts(**given)


def _kind_of(name: str) -> str:
    """Return in words which values a fact may have."""
    kinds = get_args(_KINDS[name])
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        return f"one of {', '.join(choices)}"
    return next(text for kind, text in _IN_WORDS if kind in kinds)


def require(form: str, **needed: str | None) -> Mapping[str, str]:
    """Return facts that a format requires.

    Args:
        form: What requires them, for the error.
        needed: The facts by their names, None where they are unknown.

    Raises:
        ConfigurationError: Some are unknown; the message asks for all of them.
    """
    known = {name: value for name, value in needed.items() if value is not None}
    if len(known) < len(needed):
        asked = " ".join(f"--set {name}={_EXAMPLES[name]}" for name in needed if name not in known)
        msg = f"{form} requires what no record knows; give it as in: {asked}"
        raise ConfigurationError(msg)
    return known

"""Records of made-up runs with all that a record can hold, for what shows records."""

import math
import random
from typing import Any

from ml_energy_callbacks.readings import Provenance
from ml_energy_callbacks.record.schema import (
    CarbonRecord,
    DeviceRecord,
    EpochRecord,
    PhaseRecord,
    PowerSeries,
    Run,
    RunRecord,
    StageRecord,
    TotalRecord,
)

SHARES = {"gpu:0": 0.8, "cpu:0": 0.2}


def a_record(
    *,
    joules: float = 7200.0,
    seconds: float = 600.0,
    epochs: int = 20,
    slices: int = 400,
    accuracy: float = 0.95,
    uncertainty: float = 0.05,
    provenance: Provenance = "measured",
    devices: int = 2,
    seed: int = 0,
    **run: Any,
) -> RunRecord:
    """Return a training with validation on a GPU and a CPU, by epochs and with its power over time."""
    chance = random.Random(seed)
    shares = dict(list(SHARES.items())[:devices]) | {f"gpu:{i}": 0.1 for i in range(1, devices - 1)}
    shares = {name: share / sum(shares.values()) for name, share in shares.items()}
    stages = {
        name: _stage(share * joules, share * seconds, shares, samples=samples, uncertainty=uncertainty, provenance=provenance)
        for name, share, samples in (("train", 0.85, 50_000), ("validate", 0.1, 10_000), ("other", 0.05, None))
    }
    facts = {
        "id": f"{seed:032x}",
        "started_at": f"2026-11-{seed % 28 + 1:02}T10:00:00+00:00",
        "ended_at": f"2026-11-{seed % 28 + 1:02}T10:10:00+00:00",
        "status": "completed",
        "framework": "pytorch_lightning 2.6.6",
        "hostnames": ["node-a"],
        "model": "ResNet",
    }
    return RunRecord(
        run=Run(**(facts | run)),
        devices=[
            DeviceRecord(
                id=name,
                name="NVIDIA H100" if name.startswith("gpu") else "AMD EPYC",
                kind="gpu" if name.startswith("gpu") else "cpu",
                backend="scripted",
                method="energy_counter" if provenance == "measured" else "model",
                provenance=provenance,
                relative_uncertainty=uncertainty,
                update_period_s=0.1,
                joules=share * joules,
                missing_s=0.0,
            )
            for name, share in shares.items()
        ],
        stages=stages,
        epochs=[
            _epoch(stage, name, index, epochs, seconds, shares, accuracy, chance)
            for index in range(epochs)
            for name, stage in stages.items()
            if name != "other"
        ],
        total=TotalRecord(
            joules=joules,
            kwh=joules / 3.6e6,
            seconds=seconds,
            relative_uncertainty=uncertainty,
            provenance=provenance,
            co2e_grams=joules / 3.6e6 * 56,
            cost=joules / 3.6e6 * 0.3,
            currency="EUR",
        ),
        carbon=CarbonRecord(
            intensity_g_per_kwh=56.0,
            location="FRA",
            source="Our World in Data",
            data_year=2024,
            assumed=False,
            pue=1.2,
            basis="lifecycle",
            relative_uncertainty=0.1,
        ),
        power={name: _power(share * joules / seconds, seconds, slices, chance) for name, share in shares.items()},
    )


def _stage(
    joules: float,
    seconds: float,
    shares: dict[str, float],
    *,
    samples: int | None,
    uncertainty: float,
    provenance: Provenance,
) -> StageRecord:
    parts = {"other": 1.0} if samples is None else {"compute": 0.8, "data_wait": 0.2}
    phases = {
        name: PhaseRecord(
            joules=share * joules,
            seconds=share * seconds,
            relative_uncertainty=0.04,
            low_joules=share * joules * 0.96,
            high_joules=share * joules * 1.04,
        )
        for name, share in parts.items()
    }
    return StageRecord(
        joules=joules,
        seconds=seconds,
        batches=100,
        samples=samples,
        joules_per_sample=None if samples is None else joules / samples,
        mean_watts=joules / seconds,
        relative_uncertainty=uncertainty,
        provenance=provenance,
        phases=phases,
        devices={name: share * joules for name, share in shares.items()},
        co2e_grams=joules / 3.6e6 * 56,
        cost=joules / 3.6e6 * 0.3,
        sampled_joules=joules,
    )


def _epoch(
    stage: StageRecord,
    name: str,
    index: int,
    epochs: int,
    seconds: float,
    shares: dict[str, float],
    accuracy: float,
    chance: random.Random,
) -> EpochRecord:
    joules = (stage.joules or 0.0) / epochs * chance.gauss(1, 0.01)
    learned = 1 - math.exp(-5 * (index + 1) / epochs)
    return EpochRecord(
        stage=name,
        index=index,
        joules=joules,
        seconds=stage.seconds / epochs,
        samples=(stage.samples or 0) // epochs,
        co2e_grams=joules / 3.6e6 * 56,
        sampling_joules=0.005 * joules,
        started_s=seconds * (index + (0.9 if name == "validate" else 0.0)) / epochs,
        devices={device: share * joules for device, share in shares.items()},
        phases={phase: share * joules for phase, share in (("compute", 0.8), ("data_wait", 0.2))},
        metrics={"val_acc": accuracy * learned, "val_loss": 1.1 - learned}
        if name == "validate"
        else {"train_loss": 1 - learned},
    )


def _power(watts: float, seconds: float, slices: int, chance: random.Random) -> PowerSeries:
    mean: list[float | None] = [round(watts * chance.gauss(1, 0.05), 2) for _ in range(slices)]
    mean[slices // 2 : slices // 2 + slices // 20] = [None] * (slices // 20)
    return PowerSeries(
        slice_s=seconds / slices,
        mean=mean,
        low=[None if value is None else round(value * 0.9, 2) for value in mean],
        high=[None if value is None else round(value * 1.1, 2) for value in mean],
    )

"""What a run could have saved."""

from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.record.schema import DeviceRecord, PhaseRecord, RankRecord, RunRecord, StageRecord
from ml_energy_callbacks.report import render, summary
from ml_energy_callbacks.report.hints import find_hints


def a_device(device_id: str, joules: float | None = 1000.0, **more: Any) -> DeviceRecord:
    facts: dict[str, Any] = {
        "name": "H100",
        "kind": "gpu",
        "backend": "nvml",
        "method": "energy_counter",
        "provenance": "measured",
        "relative_uncertainty": 0.05,
        "update_period_s": 0.1,
        "missing_s": 0.0,
    }
    return DeviceRecord(id=device_id, joules=joules, **{**facts, **more})


def a_stage(joules: float | None, *devices: str, **phases: tuple[float | None, float | None]) -> StageRecord:
    """Return a stage whose devices share its joules, and whose phases have such joules and uncertainties."""
    devices = devices or ("nvml:a",)
    return StageRecord(
        joules=joules,
        seconds=100.0,
        batches=100,
        samples=1000,
        joules_per_sample=None,
        mean_watts=None,
        relative_uncertainty=0.05,
        provenance="measured",
        phases={
            name: PhaseRecord(joules=energy, seconds=10.0, relative_uncertainty=doubt)
            for name, (energy, doubt) in phases.items()
        },
        devices={} if joules is None else dict.fromkeys(devices, joules / len(devices)),
        co2e_grams=None,
        cost=None,
    )


def a_rank(rank: int, seconds: float, device: str) -> RankRecord:
    return RankRecord(
        rank=rank,
        node=0,
        status="completed",
        seconds=seconds,
        batches=1,
        samples=1,
        devices=[device],
        joules=1.0,
        compute_seconds=seconds,
        data_wait_seconds=0.0,
        barrier_seconds=0.0,
        barrier_joules=None,
    )


def a_run(*devices: DeviceRecord, provenance: str = "measured", **stages: StageRecord) -> RunRecord:
    with EnergyMeter(backends=[], location="FRA", verbose=False) as meter:
        pass
    record = meter.record
    record.devices = list(devices) or [a_device("nvml:a")]
    record.stages = dict(stages)
    joules = sum(stage.joules or 0.0 for stage in stages.values())
    record.total = replace(record.total, joules=joules, seconds=100.0, relative_uncertainty=0.05, provenance=provenance)
    return record


def test_waiting_for_data() -> None:
    (hint,) = find_hints(a_run(train=a_stage(1000.0, data_wait=(310.0, 0.05), compute=(690.0, 0.05))))
    assert (hint.joules, hint.share) == pytest.approx((279.775, 0.2945))  # 5 % less for the devices
    assert hint.text == "Waiting for data used at least 29 % of the energy of train: more workers or caching could save 279 J."


@pytest.mark.parametrize("joules", [None, 200.0])
def test_a_hint_names_the_lower_bound_of_a_phase(joules: float | None) -> None:
    stage = a_stage(1000.0)
    stage.phases["data_wait"] = PhaseRecord(
        joules=joules, seconds=10.0, relative_uncertainty=0.5, low_joules=120.0, high_joules=310.0
    )
    (hint,) = find_hints(a_run(train=stage))
    assert (hint.joules, hint.share) == (114, 0.12)
    assert hint.text == "Waiting for data used at least 12 % of the energy of train: more workers or caching could save 114 J."
    stage.phases["data_wait"].low_joules = 90.0
    assert find_hints(a_run(train=stage)) == []


@pytest.mark.parametrize("phase", ["data_wait", "compile"])
@pytest.mark.parametrize(
    ("low", "share", "saved"),
    [(1051.6, "10 %", "999 J"), (1159.9, "11 %", "1.10 kJ"), (2900.0, "29 %", "2.75 kJ"), (9876.5, "98 %", "9.38 kJ")],
)
def test_a_lower_bound_is_rounded_down(phase: str, low: float, share: str, saved: str) -> None:
    (hint,) = find_hints(a_run(train=a_stage(10_000.0, **{phase: (low, 0.0)})))
    assert f"at least {share} of the energy of train" in hint.text
    assert hint.text.endswith(f"could save {saved}.")
    assert hint.short.startswith(f"{saved} avoidable")


@pytest.mark.parametrize("stage", ["train", "validate", "test", "predict"])
def test_waiting_in_any_stage(stage: str) -> None:
    record = a_run(**{stage: a_stage(1000.0, data_wait=(310.0, 0.05))})
    record.run = replace(record.run, framework="pytorch_lightning 2.6.6")
    (hint,) = find_hints(record)
    assert f"Waiting for data used at least 29 % of the energy of {stage}: " in hint.text


@pytest.mark.parametrize(("stage", "count"), [("train", 1), ("validate", 1), ("test", 0), ("predict", 0)])
def test_in_a_plain_loop_the_waiting_of_predictions_may_be_for_requests(stage: str, count: int) -> None:
    record = a_run(**{stage: a_stage(1000.0, data_wait=(310.0, 0.05))})
    assert record.run.framework == "none"
    assert len(find_hints(record)) == count


@pytest.mark.parametrize(
    ("wait", "doubt"),
    [
        (95.0, 0.01),  # below the threshold
        (150.0, 0.4),  # its interval reaches below
        (None, None),  # not separated
    ],
)
def test_evidence_that_does_not_carry_it_gives_no_hint(wait: float | None, doubt: float | None) -> None:
    assert find_hints(a_run(train=a_stage(1000.0, data_wait=(wait, doubt)))) == []


def test_a_model_of_constant_power_tells_no_phases() -> None:
    memory = a_device("memory-model:0", kind="dram", method="model", provenance="estimated")
    train = a_stage(1000.0, "memory-model:0", data_wait=(310.0, 0.0))
    assert find_hints(a_run(memory, provenance="estimated", train=train)) == []


def test_what_is_estimated_is_said_to_be() -> None:
    cpu = a_device("cpu-model:0", kind="cpu", method="model", provenance="estimated")
    train = replace(a_stage(1000.0, "cpu-model:0", data_wait=(310.0, 0.05)), provenance="estimated")
    (hint,) = find_hints(a_run(cpu, provenance="estimated", train=train))
    assert hint.text.startswith("Waiting for data used at least 27 % (estimated) of the energy of train")


def test_the_lower_bound_of_an_estimate_includes_the_models_uncertainty() -> None:
    cpu = a_device("cpu-model:0", kind="cpu", method="model", provenance="estimated", relative_uncertainty=0.6)

    def hints(low_joules: float) -> list[Any]:
        stage = a_stage(1000.0, "cpu-model:0", data_wait=(low_joules, 0.0))
        return find_hints(a_run(cpu, train=replace(stage, provenance="estimated", relative_uncertainty=0.6)))

    (hint,) = hints(500.0)
    assert (hint.joules, hint.share) == pytest.approx((200.0, 0.2))  # 200 of 200 + 800 J
    assert hints(300.0) == []  # 120 of 120 + 1120 J


def test_compiling() -> None:
    (hint,) = find_hints(a_run(train=a_stage(1000.0, compile=(200.0, 0.05))))
    assert (hint.joules, hint.share) == (180.5, 0.19)
    assert "Compilation used at least 19 % of the energy of train: " in hint.text
    assert hint.text.endswith("could save 180 J.")
    assert "jax_compilation_cache_dir" in hint.text


def test_validating() -> None:
    (hint,) = find_hints(a_run(train=a_stage(1000.0), validate=a_stage(400.0)))
    assert (hint.joules, hint.share) == (400, 0.4)
    assert hint.text.startswith("Validation used 40 % as much energy as training: validating less often")
    assert find_hints(a_run(train=a_stage(1000.0), validate=a_stage(240.0))) == []
    assert find_hints(a_run(validate=a_stage(400.0))) == []  # it never came to train


def test_an_idle_gpu() -> None:
    busy, idle = a_device("nvml:a", 30_000.0), a_device("nvml:b", 6_000.0)
    (hint,) = find_hints(a_run(busy, idle, train=a_stage(36_000.0, busy.id, idle.id)))
    assert (hint.joules, hint.share) == (6000, pytest.approx(1 / 6))
    assert hint.text.startswith("GPUs with a low load used 17 % of the energy: nvml:b (60 W), compared with 300 W of nvml:a; ")
    assert hint.text.endswith("would save up to 6.00 kJ.")


@pytest.mark.parametrize(
    "other",
    [
        a_device("nvml:b", 11_500.0),  # below 40 %, but not surely
        a_device("nvml:b", 6_000.0, name="T4"),  # another name
        a_device("nvml:b", None),
        a_device("rapl:b", 6_000.0, kind="cpu"),
        a_device("amd:b", 6_000.0, method="power_integration", missing_s=80.0),  # 300 W while it was read
        a_device("amd:b", 6_000.0, method="power_integration", missing_s=100.0),
    ],
)
def test_what_is_no_idle_gpu(other: DeviceRecord) -> None:
    assert find_hints(a_run(a_device("nvml:a", 30_000.0), other, train=a_stage(36_000.0, "nvml:a", other.id))) == []


def test_a_gpu_that_was_not_there_all_the_time_was_not_idle() -> None:
    devices = a_device("nvml:a", 30_000.0), a_device("nvml:b", 6_000.0)
    both = a_stage(18_000.0, "nvml:a", "nvml:b")
    assert len(find_hints(a_run(*devices, train=both, test=both))) == 1
    assert find_hints(a_run(*devices, train=both, test=a_stage(18_000.0))) == []  # the test ran on one of them
    elsewhere = a_run(*devices, train=both)
    elsewhere.run = replace(elsewhere.run, hostnames=["here", "there"])
    assert find_hints(elsewhere) == []  # it went on there
    killed = a_run(*devices, train=both)
    killed.ranks = [a_rank(0, 100.0, "nvml:a"), a_rank(1, 20.0, "nvml:b")]
    assert find_hints(killed) == []
    killed.ranks[1].seconds = 100.0
    assert len(find_hints(killed)) == 1


def test_a_run_that_measured_nothing_gives_no_hint() -> None:
    record = a_run(train=a_stage(None, data_wait=(None, None)))
    record.devices = []
    record.total = replace(record.total, joules=None, seconds=0.0)
    assert find_hints(record) == []


def shown(record: RunRecord) -> str:
    console = Console(width=300)
    with console.capture() as caught:
        console.print(render(record))
    return caught.get()


def test_the_three_greatest_are_shown_the_greatest_first() -> None:
    record = a_run(
        train=a_stage(1000.0, data_wait=(310.0, 0.05), compile=(150.0, 0.05)),
        validate=a_stage(400.0),
        test=a_stage(500.0, data_wait=(100.0, 0.01)),
    )
    record.run = replace(record.run, framework="keras 3")
    assert [hint.joules for hint in find_hints(record)] == pytest.approx([400, 279.775, 135.375, 94.05])
    lines = [line.rstrip() for line in shown(record).splitlines() if line.startswith("Hint: ")]
    assert lines == [f"Hint: {hint.text}" for hint in find_hints(record)[:3]]
    assert "400 J avoidable (validate less often)" in summary(record)


def test_a_headline_without_hints_has_none() -> None:
    assert "avoidable" not in summary(a_run(train=a_stage(1000.0)))

"""Two real processes of one job."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forked import Warm
from job_world import GPU_WATTS, PROCESSOR, check_truth, drawn, end, gpu, start, start_ranks, truth, wait
from loads import steady
from trainer_models import TOKENS, paced, trainer

from ml_energy_callbacks import load_record
from ml_energy_callbacks.backends.memory_model import MemoryModelBackend
from ml_energy_callbacks.fleet import merge_jobs
from ml_energy_callbacks.frameworks.torch import accelerator_of, used_gpus
from ml_energy_callbacks.testing.nvml import SimulatedDriver
from ml_energy_callbacks.transformers import EnergyBudget, EnergyCallback
from ml_energy_callbacks.transformers.energy_callback import _gpu_numbers, _share_samples

SCRIPT = Path(__file__).with_name("train.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.mark.xdist_group("programs")
def test_two_processes_measure_each_device_once_and_log_the_jobs_totals(
    program: Warm, driver_library: SimulatedDriver, tmp_path: Path
) -> None:
    two_gpus = driver_library.environment(len(GPU_WATTS))
    output = end(start(SCRIPT, two_gpus, tmp_path, options=TORCHRUN))
    record = load_record(tmp_path)
    assert (record.run.status, record.run.world_size, record.run.missing_ranks) == ("completed", 2, [])
    check_truth(record, drawn(tmp_path))
    assert [rank.devices for rank in record.ranks] == [[gpu(0), PROCESSOR], [gpu(1), PROCESSOR]]
    assert [(node.ranks, len(node.devices)) for node in record.nodes] == [([0, 1], 3)]
    # What fills up the last batches, so that both processes have as many, passes as well: 6 batches of 4 in each of both.
    train = record.stages["train"]
    assert (train.batches, train.samples, train.tokens) == (2 * 2 * 6, 2 * 48, 2 * 48 * TOKENS)
    assert [rank.samples for rank in record.ranks] == pytest.approx(
        [sum(s.samples or 0 for s in record.stages.values()) / 2] * 2
    )
    assert [epoch.samples for epoch in record.epochs if epoch.stage == "train"] == [48] * 2
    for stage, passes in (("validate", 2), ("test", 1)):
        assert (record.stages[stage].samples or 0) >= 12 * passes
    assert train.joules_per_sample == pytest.approx((train.joules or 0) / (train.samples or 1), rel=1e-6)
    first, second = (
        [
            {name: value for name, value in entry.items() if name.startswith("energy/t")}
            for entry in json.loads((tmp_path / f"logged-{rank}.json").read_text("utf-8"))
            if "energy/total/joules" in entry
        ]
        for rank in range(2)
    )
    assert len(first) == 1 + 2 + 1  # at the first epoch's last step, the Trainer logs the evaluation alone
    for here, there in zip(first, second, strict=True):
        assert here == pytest.approx(there, rel=1e-4)
    logged = [entry["energy/train/joules"] for entry in first if "energy/train/joules" in entry]
    assert logged == pytest.approx([epoch.joules for epoch in record.epochs if epoch.stage == "train"], rel=1e-5)
    assert not any(name.endswith("_step") for entry in first for name in entry)
    assert not list(tmp_path.glob("energy.rank*"))
    assert sum("g CO2e" in line for line in output.splitlines()) == 2  # rank 0 alone says what was used, after each call
    # Another job goes on from the last checkpoint of the first: nothing is left to train, and what was used stands once.
    for process in start_ranks(program, SCRIPT, driver_library, tmp_path, "--resume", tmp_path / "checkpoint-6"):
        wait(process)
    resumed = load_record(tmp_path)
    assert resumed.run.id == record.run.id
    assert (resumed.stages["train"].samples, resumed.stages["train"].tokens) == (2 * 48, 2 * 48 * TOKENS)
    assert resumed.stages["train"].joules == pytest.approx(train.joules, rel=0.5)


@pytest.mark.xdist_group("programs")
def test_a_process_that_fails_lets_none_wait_and_merge_adds_up_what_both_left(
    program: Warm, driver_library: SimulatedDriver, tmp_path: Path
) -> None:
    for process in start_ranks(program, SCRIPT, driver_library, tmp_path, "--fails", 1):
        wait(process, 1)
    ((_, record),) = merge_jobs([str(tmp_path)], print)
    assert record.run.status == "failed"
    assert [rank.status for rank in record.ranks] == ["failed", "failed"]
    assert load_record(tmp_path / "energy.rank1.json").run.reason == "ValueError: no more"
    check_truth(record, truth(record))
    assert [epoch.samples for epoch in record.epochs] == [48, record.stages["validate"].samples]


@pytest.mark.xdist_group("programs")
def test_a_budget_stops_all_processes_after_the_same_step(
    program: Warm, driver_library: SimulatedDriver, tmp_path: Path
) -> None:
    for process in start_ranks(program, SCRIPT, driver_library, tmp_path, "--budget", 1e-5):
        wait(process)
    record = load_record(tmp_path)
    assert record.run.reason == "The budget of 1.0e-5 kWh is spent."
    assert [epoch.stage for epoch in record.epochs] == ["train", "validate", "test"]
    first, second = (json.loads((tmp_path / f"logged-{rank}.json").read_text("utf-8"))[-1]["step"] for rank in range(2))
    assert first == second < 6
    assert (tmp_path / f"checkpoint-{first}").is_dir()


def test_a_process_that_cannot_reach_the_others_does_not_stop_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on TPUs, where each process trains without a process group of torch's."""
    energy = EnergyCallback(backends=[steady(360.0)], verbose=False)
    t = trainer(tmp_path, [energy, EnergyBudget(kwh=20 / 3.6e6), paced(0.02)])
    monkeypatch.setattr(type(t.args), "world_size", property(lambda _: 2))
    t.train()
    assert t.state.global_step == 20
    assert any("cannot agree on when to stop" in warning for warning in energy.record.warnings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_training_on_a_gpu_that_cannot_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in WSL2: the Trainer computes on CUDA, and nothing reports the GPU's energy."""
    energy = EnergyCallback(devices="auto", backends=[MemoryModelBackend()], verbose=False)
    t = trainer(tmp_path, [energy])
    monkeypatch.setattr(type(t.args), "device", property(lambda _: torch.device("cuda", 0)))
    energy._start(t)
    energy.meter.stop()
    assert any("runs on a GPU, but no GPU can be read" in warning for warning in energy.record.warnings)
    assert energy.record.total.lower_bound


@pytest.mark.parametrize(
    ("device", "job", "properties", "kind"),
    [
        ("cuda:0", None, SimpleNamespace(is_integrated=0), "gpu"),
        ("cuda:0", None, SimpleNamespace(is_integrated=1), None),  # the processor's figure may include it
        ("cuda:0", None, SimpleNamespace(), "gpu"),  # an older torch
        ("mps", None, None, "gpu"),
        ("cpu", None, None, None),
        ("xla:0", "TPU", None, "tpu"),
        ("xla:0", "CPU", None, None),
    ],
)
def test_the_kind_of_a_device_is_that_of_its_hardware(
    monkeypatch: pytest.MonkeyPatch, device: str, job: str | None, properties: Any, kind: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setenv("PJRT_DEVICE", job or "")
    assert accelerator_of(torch.device(device)) == kind


@pytest.mark.parametrize(
    ("own", "replicas", "layers", "gpus"),
    [
        ("cuda:1", 1, ["cuda:1"], {"GPU-1"}),  # one process of several
        ("cuda:0", 3, ["cuda:0"], {"GPU-0", "GPU-1", "GPU-2"}),  # torch.nn.DataParallel
        ("cuda:0", 1, ["cuda:0", "cuda:2", "cpu"], {"GPU-0", "GPU-2"}),  # a device_map
        ("cpu", 0, ["cpu"], None),
    ],
)
def test_the_gpus_that_a_process_works_on_are_its_own(
    monkeypatch: pytest.MonkeyPatch, own: str, replicas: int, layers: list[str], gpus: set[str] | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=f"GPU-{number}"))
    weights = [SimpleNamespace(device=torch.device(layer)) for layer in layers]
    args = SimpleNamespace(device=torch.device(own), n_gpu=replicas)
    trainer = SimpleNamespace(args=args, model=SimpleNamespace(parameters=lambda: weights))
    found = used_gpus(args.device, lambda: _gpu_numbers(trainer))
    assert (found and set(found)) == gpus


@pytest.mark.parametrize(("processes", "groups", "shared"), [(4, 4, False), (4, 2, True), (1, 1, False)])
def test_samples_that_several_processes_share_are_known_by_the_trainers_batch(
    processes: int, groups: int, *, shared: bool
) -> None:
    args = SimpleNamespace(world_size=processes, gradient_accumulation_steps=2, train_batch_size=8, auto_find_batch_size=False)
    trainer = SimpleNamespace(args=args, state=None, get_total_train_batch_size=lambda _: 8 * 2 * groups)
    assert _share_samples(trainer) == shared

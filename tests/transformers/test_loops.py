"""Plain loops in several real processes, by torch's process group and by Accelerate."""

import json
from pathlib import Path

import pytest
import torch
import torch_loop_job
from accelerate.utils import gather_object
from forked import Warm
from job_world import CPU_WATTS, PROCESSOR, check_truth, gpu, joules, start_ranks, truth, wait
from torch_loop_job import BATCHES, EPOCHS, samples, train

from ml_energy_callbacks import EnergyMeter, LoopDescription, load_record
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.fleet import merge_jobs
from ml_energy_callbacks.frameworks.torch import all_gather, gpu_uuids
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter
from ml_energy_callbacks.testing.nvml import SimulatedDriver

SCRIPT = Path(torch_loop_job.__file__)


@pytest.mark.xdist_group("programs")
@pytest.mark.parametrize("options", [(), ("--accelerate",)])
def test_a_jobs_total_is_the_truth(
    program: Warm, driver_library: SimulatedDriver, tmp_path: Path, options: tuple[str, ...]
) -> None:
    for process in start_ranks(program, SCRIPT, driver_library, tmp_path, *options):
        wait(process)
    record = load_record(tmp_path)
    assert (record.run.status, record.run.world_size, record.run.missing_ranks) == ("completed", 2, [])
    check_truth(record)
    each = [EPOCHS * BATCHES * samples(rank) for rank in range(2)]
    assert [rank.samples for rank in record.ranks] == each
    assert (record.stages["train"].batches, record.stages["train"].samples) == (2 * EPOCHS * BATCHES, sum(each))
    assert [epoch.samples for epoch in record.epochs] == [sum(each) // EPOCHS] * EPOCHS
    assert [(node.ranks, len(node.devices)) for node in record.nodes] == [([0, 1], 3)]
    assert [rank.devices for rank in record.ranks] == [[gpu(0), PROCESSOR], [gpu(1), PROCESSOR]]
    told = [json.loads((tmp_path / f"told-{rank}.json").read_text("utf-8")) for rank in range(2)]
    assert told[0] == pytest.approx(told[1], rel=1e-5)
    assert told[0]["energy/train/joules"] == pytest.approx(record.epochs[-1].joules, rel=1e-5)
    assert not list(tmp_path.glob("energy.rank*"))


def test_accelerates_one_process_is_no_job_and_its_bare_gather_is_refused(tmp_path: Path) -> None:
    device = ScriptedCounter(PowerCurve(monotonic_clock, CPU_WATTS), monotonic_clock, 0.0)
    meter = EnergyMeter(output_dir=tmp_path, backends=[ScriptedBackend([device])], verbose=False)
    with pytest.raises(ConfigurationError, match="gather must return the objects of all processes"):
        meter.start(LoopDescription(gather=gather_object))
    with meter.start(LoopDescription(gather=lambda fact: gather_object([fact]))):
        train(meter, lambda _: None, 0, None)
    record = load_record(tmp_path)
    assert (record.run.world_size, record.run.status, record.ranks, record.nodes) == (1, "completed", [], [])
    assert record.stages["train"].samples == EPOCHS * BATCHES * samples(0)


@pytest.mark.xdist_group("programs")
def test_a_killed_process_stops_no_other_and_merge_adds_what_it_left(
    program: Warm, driver_library: SimulatedDriver, tmp_path: Path
) -> None:
    survivor, killed = start_ranks(program, SCRIPT, driver_library, tmp_path, "--dies", 1)
    wait(killed, -9)
    wait(survivor)
    assert "The other processes of the job can no longer be reached" in survivor.output + survivor.errors
    before = load_record(tmp_path)
    assert before.run.status == "failed"
    assert before.run.reason == "Rank 1 ended without a word."
    assert [epoch.index for epoch in before.epochs] == [0, 1, 2]
    assert [epoch.samples for epoch in before.epochs] == [BATCHES * 9, None, None]
    ((place, record),) = merge_jobs([str(tmp_path)], print)
    assert place == tmp_path / "energy.json"
    assert (record.run.status, record) == ("failed", load_record(tmp_path))
    assert joules(record) == pytest.approx(truth(record), rel=1e-2)
    assert joules(record)[gpu(1)] > joules(before)[gpu(1)]


def test_processes_that_have_not_joined_a_group_are_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all_gather("alone") == ["alone"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigurationError, match=r"one of 2 processes by WORLD_SIZE.*call torch.distributed.init_process_group"
    ):
        all_gather("early")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_where_torch_has_no_gpu_it_tells_none() -> None:
    assert gpu_uuids([0]) is None

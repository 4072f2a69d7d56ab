"""Several devices in one process, and several processes: one job with torch, refused with TensorFlow and JAX."""

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keras
import pytest
from forked import Warm

from ml_energy_callbacks import load_record
from ml_energy_callbacks.testing.nvml import SimulatedDriver

HERE = Path(__file__).parent

pytestmark = pytest.mark.xdist_group("programs")

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the strategy is TensorFlow's")
on_torch = pytest.mark.skipif(keras.backend.backend() != "torch", reason="the process group is torch's")
on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="the distribution is for JAX")


def train(program: Warm, folder: Path, *arguments: str) -> dict[str, Any]:
    """Train in a process of its own, as devices have to be set up before anything else; return what it prints."""
    done = program.run(HERE / "distributed.py", folder, *arguments, folder=folder)
    facts: dict[str, Any] = json.loads(done.output.splitlines()[-1])
    return facts


def free_ports() -> tuple[str, str]:
    """Return two ports of this host that nobody uses now."""
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("localhost", 0))
        return str(first.getsockname()[1]), str(second.getsockname()[1])


def together(program: Warm, folder: Path, script: Path, arguments: Sequence[Sequence[object]], **options: Any) -> Iterator[str]:
    """Run processes of a script side by side, each with arguments and variables of its own; yield what each prints."""
    variables = options.pop("variables", [{}] * len(arguments))
    with ExitStack() as stack:
        processes = [
            stack.enter_context(program.start(script, *own, folder=folder, environment=environment, **options))
            for own, environment in zip(arguments, variables, strict=True)
        ]
        for process in processes:
            assert process.wait() == 0, process.errors
            yield process.output


def expect_truth(facts: dict[str, Any], samples: int) -> None:
    """Expect each sample once, of two epochs in batches of 24 with a validation of 60, and all GPUs' joules."""
    assert facts["counts"] == {
        "train": [8, 2 * samples],
        "validate": [6, 2 * 60],
        "test": [4, samples],
        "predict": [4, samples],
    }
    assert facts["joules"] == pytest.approx(facts["true_joules"], rel=1e-3)
    # On a busy machine the simulated counter refreshes late, and differs from its power in a short run.
    assert [warning for warning in facts["warnings"] if "cross_check" not in warning] == []


@on_tensorflow
def test_uneven_replicas_count_each_sample_once_and_the_joules_of_all_gpus(tmp_path: Path, program: Warm) -> None:
    # The last batch of 19 is 7, 6 and 6.
    facts = train(program, tmp_path, "--used", "1", "2", "3", "--samples", "91", "--steps-per-execution", "2")
    expect_truth(facts, 91)
    assert facts["numbers"] == [0]  # all three are parts of one processor


@on_tensorflow
def test_watched_data_show_their_waits_with_two_replicas(tmp_path: Path, program: Warm) -> None:
    facts = train(program, tmp_path, "--used", "0", "3", "--samples", "91", "--watch")
    expect_truth(facts, 91)
    assert "data_wait" in facts["phases"]
    assert "step" not in facts["phases"]


@on_jax
def test_data_parallel_devices_count_each_sample_once_and_the_joules_of_all_gpus(tmp_path: Path, program: Warm) -> None:
    facts = train(program, tmp_path, "--used", "1", "2", "--samples", "92", "--steps-per-execution", "3")
    expect_truth(facts, 92)
    assert facts["numbers"] == [1, 2]


@on_jax
def test_a_model_that_is_spread_over_devices_counts_each_sample_once(tmp_path: Path, program: Warm) -> None:
    facts = train(program, tmp_path, "--used", "0", "1", "2", "3", "--samples", "92", "--model-parallel")
    expect_truth(facts, 92)
    assert facts["numbers"] == [0, 1, 2, 3]


PLACED = """
import tensorflow as tf
processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from ml_energy_callbacks.keras import placement
with tf.device("CPU:1"):
    model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(1)])
print(placement.numbers(model, "cpu"), placement.numbers(model, "gpu"), placement.gpus(model))
"""


@on_tensorflow
def test_the_gpus_of_a_model_are_those_that_its_variables_are_on(tmp_path: Path, program: Warm) -> None:
    script = tmp_path / "placed.py"
    script.write_text(PLACED, encoding="utf-8")
    assert program.run(script, folder=tmp_path).output.strip() == "{0} set() None"


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="with torch they are one job")
def test_several_processes_of_one_loop_are_refused_in_each(tmp_path: Path, program: Warm) -> None:
    ports = free_ports()
    for output in together(program, tmp_path, HERE / "several.py", [[rank, *ports] for rank in range(2)]):
        assert output.splitlines()[-1].startswith("With TensorFlow and JAX, EnergyCallback supports only one process")
        assert "this job has 2" in output


class TestJob:
    """Two processes of one host, as torchrun starts them."""

    def train(
        self, program: Warm, folder: Path, driver: SimulatedDriver, *arguments: str, codes: Sequence[int] = (0, 0)
    ) -> list[str]:
        """Train, until the processes have ended with these codes, and return what each printed."""
        port, _ = free_ports()
        common = driver.environment(gpus=2) | {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
        with ExitStack() as stack:
            processes = [
                stack.enter_context(
                    program.start(
                        HERE / "job.py",
                        folder,
                        *arguments,
                        folder=folder,
                        libraries=[driver.library],
                        environment=common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
                    )
                )
                for rank in range(2)
            ]
            for process, code in zip(processes, codes, strict=True):
                assert process.wait() == code, process.output + process.errors
            return [process.output for process in processes]

    def logged(self, folder: Path) -> list[dict[str, list[float]]]:
        """Return what each process logged."""
        return [json.loads((folder / f"logged-{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]

    @on_torch
    def test_it_counts_each_device_and_each_sample_once(
        self, tmp_path: Path, program: Warm, driver_library: SimulatedDriver
    ) -> None:
        outputs = self.train(program, tmp_path, driver_library)
        assert ["\nEnergy  " in output for output in outputs] == [True, False]
        logged = self.logged(tmp_path)
        record = load_record(tmp_path)
        assert (record.run.status, record.run.world_size) == ("completed", 2)
        gpus = [f"nvml:GPU-0000000{gpu}-0000-0000-0000-000000000000" for gpu in range(2)]
        joules = {device.id: device.joules for device in record.devices}
        assert joules.keys() == {*gpus, "scripted:package-0"}
        seconds = [rank.seconds for rank in record.ranks]
        assert joules[gpus[0]] == pytest.approx(100 * seconds[0], rel=0.01)
        assert joules[gpus[1]] == pytest.approx(300 * seconds[1], rel=0.01)
        assert joules["scripted:package-0"] == pytest.approx(50 * seconds[0], rel=0.01)
        assert record.total.joules == pytest.approx(sum(value or 0 for value in joules.values()))
        counts = {name: (stage.batches, stage.samples) for name, stage in record.stages.items() if name != "other"}
        assert counts == {"train": (3 * 18, 3 * 90), "validate": (3 * 8, 3 * 40), "predict": (18, 90)}
        train = [epoch.joules for epoch in record.epochs if epoch.stage == "train"]
        for own in logged:
            assert own["energy/train/joules"] == pytest.approx(train)
            assert own["energy/validate/joules_per_sample"] == logged[0]["energy/validate/joules_per_sample"]
        written_by = {path.name.split(".")[-3] for path in (tmp_path / "energy").glob("*tfevents*")}
        assert len(written_by) == 1
        assert not list(tmp_path.glob("energy.rank*"))

    @on_torch
    def test_a_budget_stops_all_of_it_at_the_same_epoch(
        self, tmp_path: Path, program: Warm, driver_library: SimulatedDriver
    ) -> None:
        outputs = self.train(program, tmp_path, driver_library, "--budget", "3e-6")
        assert ["\nEnergy  " in output for output in outputs] == [True, False]
        assert [len(own["loss"]) for own in self.logged(tmp_path)] == [1, 1]
        assert load_record(tmp_path).epochs[-1].stage == "predict"
        assert load_record(tmp_path).run.reason == "The budget of 3.0e-6 kWh is spent."

    @on_torch
    def test_a_process_whose_peer_died_goes_on_and_asks_it_no_more(
        self, tmp_path: Path, program: Warm, driver_library: SimulatedDriver
    ) -> None:
        self.train(program, tmp_path, driver_library, "--budget", "1", "--dies", "1", codes=(0, -9))
        record = load_record(tmp_path)
        assert record.ranks[0].status == "completed"
        assert record.stages["train"].batches == 3 * 8 + 10  # of the other, what it told
        assert sum("can no longer agree on when to stop" in warning for warning in record.warnings) == 1

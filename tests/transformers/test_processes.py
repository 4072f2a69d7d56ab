"""Two real processes of one job."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ml_energy_callbacks import load_record

SCRIPT = Path(__file__).with_name("train.py")


def test_two_processes_count_their_machine_once_and_their_samples_together(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False, env=environment, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = load_record(tmp_path)
    assert not list(tmp_path.glob("energy-*.json"))
    assert record.run.world_size == 2
    assert any(warning.startswith("Only this one of 2 processes measures") for warning in record.warnings)
    # What fills up the last batches, so that both processes have as many, passes as well: 6 batches of 4 in each of both.
    train = record.stages["train"]
    assert (train.batches, train.samples) == (12, 2 * 48)
    assert [(epoch.stage, epoch.samples) for epoch in record.epochs if epoch.stage == "train"] == [("train", 48)] * 2
    for stage in ("validate", "test"):
        assert (record.stages[stage].samples or 0) >= 12
    assert train.joules_per_sample == pytest.approx((train.joules or 0) / (train.samples or 1), rel=1e-6)

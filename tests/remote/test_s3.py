"""Records in S3: a real client speaks to a local server of its protocol."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from loads import steady
from moto.server import ThreadedMotoServer

from ml_energy_callbacks import EnergyMeter, load_record
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.fleet import find_files, read_runs

# botocore's and moto's, in threads of theirs.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ThreadedMotoServer]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "made up")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made up")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.clear_instance_cache()  # those of another server
    system.makedirs("bucket", exist_ok=True)
    yield server
    server.stop()


def meter(url: str) -> EnergyMeter:
    return EnergyMeter(backends=[steady(100)], output_dir=url, carbon_intensity=1, verbose=False)


def test_runs_are_written_kept_and_reported(server: ThreadedMotoServer) -> None:
    runs = [meter("s3://bucket/team/run") for _ in range(2)]
    for run in runs:
        with run, run.stage("train"), run.batch(1):
            time.sleep(0.2)
            assert load_record("s3://bucket/team/run").run.status == "running"
    older, newer = runs
    assert newer.record_path == "s3://bucket/team/run/energy.json"
    assert older.record_path == f"s3://bucket/team/run/energy-{older.record.run.id[:8]}.json"
    for run in runs:
        assert run.record_path is not None
        found, told = load_record(run.record_path), run.record
        # It was moved aside as it was.
        assert found.run.record_path == "s3://bucket/team/run/energy.json"
        found.run.record_path = told.run.record_path
        assert found == told
    rows = read_runs(find_files(["s3://bucket/team"], pytest.fail))
    assert {row.run_id for row in rows.rows} == {run.record.run.id for run in runs}


def test_a_bucket_that_is_not_there_is_refused_before_the_run(server: ThreadedMotoServer) -> None:
    with pytest.raises(ConfigurationError, match=r"s3://nobody/x/energy.json cannot be written \(.*bucket does not exist\)"):
        meter("s3://nobody/x").start()
    with pytest.raises(RecordError, match="There is no run record at s3://bucket/nothing"):
        load_record("s3://bucket/nothing")


def test_a_run_whose_server_goes_away_is_kept_in_a_local_directory(server: ThreadedMotoServer, tmp_path: Path) -> None:
    with meter("s3://bucket/run") as run, run.stage("train"):
        server.stop()
        time.sleep(0.5)
    record = run.record
    assert isinstance(run.record_path, Path)
    assert run.record_path.parent == tmp_path / "ml-energy-callbacks"
    assert load_record(run.record_path) == record
    assert json.loads(run.record_path.read_bytes())["run"]["status"] == "completed"
    (told,) = record.warnings
    assert told.startswith("The run file s3://bucket/run/energy.json could not be written (")
    assert told.endswith(f"); until it can be, the record is kept in {run.record_path}.")

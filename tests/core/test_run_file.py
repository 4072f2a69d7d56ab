"""The run file: one run's alone in a directory, whole at any instant, and kept where a URL does not answer."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from command import hide
from fsspec.implementations.memory import MemoryFileSystem
from loads import steady
from threads import until, wait_for_the_end_of

from ml_energy_callbacks import EnergyMeter, LoopDescription, RunRecord, load_record
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.frameworks.checkpoint import load_saved_record, save_record
from ml_energy_callbacks.record.run_file import RunFile
from ml_energy_callbacks.record.storage import LocalFile, as_place

CANNOT = "The run file flaky://x/energy.json could not be written"


class Flaky(MemoryFileSystem):  # type: ignore[misc] - fsspec has no types
    """A store whose writing fails, or hangs, as soon as it is told to."""

    protocol = ("flaky", "memory")
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    error: ClassVar[Exception | None] = None
    then: ClassVar[Exception | None] = None  # the error after the next write
    answers: ClassVar[threading.Event] = threading.Event()

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self.answers.wait(60)
        if self.error is not None:
            raise self.error
        super().pipe_file(path, value, mode, **options)
        if self.then is not None:
            type(self).error = self.then

    def cat_file(self, path: str, *arguments: Any, **options: Any) -> Any:
        if self.error is not None:
            raise self.error
        return super().cat_file(path, *arguments, **options)


class Renaming(MemoryFileSystem):  # type: ignore[misc] - as above
    """A file system with directories, which moves onto no file that is there."""

    protocol = "renaming"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    said: ClassVar[bool] = True

    def mv(self, path1: str, path2: str, *_: Any, **__: Any) -> None:
        if not self.exists(path2):
            super().mv(path1, path2)
        elif self.said:
            raise FileExistsError(path2)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Flaky]]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Flaky.store.clear()
    Flaky.error = Flaky.then = None
    Flaky.answers.set()
    before = set(threading.enumerate())
    yield Flaky
    Flaky.answers.set()
    wait_for_the_end_of(set(threading.enumerate()) - before)  # one that hung writes only now


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/bucket", recursive=True)


def meter(folder: Path | str | None = None, watts: float = 100) -> EnergyMeter:
    return EnergyMeter(backends=[steady(watts)], output_dir=folder, carbon_intensity=1, verbose=False)


class Run:
    """A run with a record that tells its version, and a run file."""

    def __init__(self, folder: Path | str, **options: Any) -> None:
        self.version = 0
        self.told: list[str] = []
        self._record = meter().start()
        self._record.stop()
        self.id = self._record.record.run.id
        self.file = RunFile(as_place(folder), self.build, self.told.append, **options)

    def build(self) -> RunRecord:
        record = self._record.record
        record.run.id = self.id
        record.run.model = str(self.version)
        record.warnings = list(self.told)
        return record

    def write(self) -> None:
        self.version += 1
        self.file.write()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def threads(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


def version(place: Path | str) -> str | None:
    return load_record(place).run.model


# ------------------------------------------------------------------------------------------------------------ whose it is


def test_writings_at_the_same_time_do_not_hurt_each_other(tmp_path: Path) -> None:
    """A partial file that two writings shared was taken from one by the other's move."""
    file = LocalFile(tmp_path / "energy.json")
    with ThreadPoolExecutor(8) as pool:
        for i, _ in enumerate(pool.map(file.write, [bytes([i]) * 10_000 for i in range(200)])):
            data = file.read()
            assert data == data[:1] * 10_000, i
    assert names(tmp_path) == ["energy.json"]


def test_a_file_that_cannot_be_written_leaves_no_partial_one(tmp_path: Path) -> None:
    (tmp_path / "energy.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        LocalFile(tmp_path / "energy.json").write(b"{}")
    assert names(tmp_path) == ["energy.json"]


@pytest.mark.parametrize("folder", ["{}", "memory://bucket/run"])
def test_a_run_whose_place_a_newer_one_took_goes_on_beside_it(tmp_path: Path, memory: Any, folder: str) -> None:
    memory.pipe("/bucket/other", b"")
    place = folder.replace("{}", str(tmp_path))
    older, newer = Run(place), Run(place)
    older.file.claim([])
    newer.file.claim([])
    for run in (older, newer, older):
        run.write()
        run.file.finish()
    assert load_record(place).run.id == newer.id
    assert str(older.file.path).endswith(f"/energy-{older.id[:8]}.json")
    assert (version(older.file.path), version(newer.file.path)) == ("2", "1")
    assert older.told == newer.told == []


class SlowBuild(Run):
    """A run whose records take until they are let go on to be built, where that is asked for."""

    def __init__(self, folder: Path) -> None:
        self.built, self.go_on = threading.Event(), threading.Event()
        self.slow = False
        super().__init__(folder)

    def build(self) -> RunRecord:
        record = super().build()
        if self.slow:
            self.built.set()
            assert self.go_on.wait(60)
        return record


def test_an_older_record_never_replaces_a_newer_one(tmp_path: Path) -> None:
    run = SlowBuild(tmp_path)
    run.file.claim([])
    run.slow = True
    older = threading.Thread(target=run.write)
    older.start()
    assert run.built.wait(60)
    run.slow = False
    run.write()
    run.file.finish()
    run.go_on.set()
    older.join()
    assert until(lambda: run.file._tried == run.file._latest_request and not run.file._writing)  # what was asked for is written
    assert version(tmp_path) == "2"


def test_a_later_record_that_the_place_does_not_take_stays_in_the_local_copy(flaky: type[Flaky], tmp_path: Path) -> None:
    run = Run("flaky://x", answer_s=0.2)
    run.file.claim([])
    flaky.answers.clear()
    run.write()
    run.version += 1
    assert not run.file.finish()  # while the place hangs, this record is kept
    kept = run.file.path
    assert version(kept) == "2"
    flaky.then = OSError("full")  # what hangs is written, and what comes next is not
    flaky.answers.set()
    assert until(lambda: not run.file._writing)
    assert run.file.path == kept
    assert version(kept) == "2"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # an interrupted Thread.start() of Python's
def test_an_interrupt_while_it_is_written_loses_no_later_record(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    run = Run(tmp_path)
    run.file.claim([])
    before, others = signal.signal(signal.SIGALRM, interrupt), ThreadPoolExecutor(1)
    others.submit(int).result()  # its thread has started
    try:
        for i in range(300):
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + i % 100))
                run.write()
                run.file.finish()
                time.sleep(0.01)  # the interrupt ends it, unless it has come before
            run.version += 1
            assert others.submit(run.file.finish).result(timeout=60)  # no lock is left with the interrupted thread
            assert version(tmp_path) == str(run.version)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        others.shutdown()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_record_stays_private_in_the_next_run(tmp_path: Path) -> None:
    first, second = Run(tmp_path), Run(tmp_path)
    first.file.claim([])
    (tmp_path / "energy.json").chmod(0o600)
    first.write()
    first.file.finish()
    assert mode(tmp_path / "energy.json") == 0o600
    second.file.claim([])
    for run in (second, first):
        run.write()
        run.file.finish()
    assert names(tmp_path) == sorted([f"energy-{first.id[:8]}.json", "energy.json"])
    assert [mode(path) for path in tmp_path.iterdir()] == [0o600, 0o600]


def test_a_record_that_a_group_may_write_stays_so(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.file.claim([])
    (tmp_path / "energy.json").chmod(0o664)
    run.write()
    assert mode(tmp_path / "energy.json") == 0o664


def test_a_run_that_another_one_resumed_tells_nothing_more(tmp_path: Path) -> None:
    older, newer = Run(tmp_path), Run(tmp_path)
    older.file.claim([])
    newer.file.claim([older.id])
    newer.write()
    older.version = 7
    older.file.finish()
    assert until(lambda: (load_record(tmp_path).run.id, version(tmp_path)) == (newer.id, "1"))
    assert names(tmp_path) == ["energy.json"]
    assert older.file.path == tmp_path / "energy.json"


@pytest.mark.parametrize("resumes", [False, True])
def test_an_older_run_that_writes_all_the_time_never_gets_into_the_newer_ones_way(tmp_path: Path, *, resumes: bool) -> None:
    older, over = Run(tmp_path), threading.Event()
    older.file.claim([])

    def go_on() -> None:
        while not over.is_set():
            older.write()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        newer = Run(tmp_path)
        newer.file.claim([older.id] if resumes else [])
        for _ in range(50):
            newer.write()
            assert load_record(tmp_path).run.id == newer.id
    finally:
        over.set()
        thread.join()
    assert newer.file.finish()
    older.file.finish()
    assert (older.told, newer.told) == ([], [])
    assert version(tmp_path) == "50"
    assert names(tmp_path) == ([] if resumes else [f"energy-{older.id[:8]}.json"]) + ["energy.json"]


PROCESS = """
import sys, time
from ml_energy_callbacks import EnergyMeter
meter = EnergyMeter(backends=[], output_dir=sys.argv[1], carbon_intensity=1, verbose=False).start()
print(meter.record.run.id, flush=True)
sys.stdin.readline()
meter.stop()
print(meter.record_path, flush=True)
"""


def test_runs_of_several_processes_in_one_directory_are_all_kept(tmp_path: Path) -> None:
    def answer(process: "subprocess.Popen[str]", question: str = "") -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(question)
        process.stdin.flush()
        return process.stdout.readline().strip()

    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(3)
        ]
        ids = [answer(process) for process in processes]
        paths = [Path(answer(process, "\n")) for process in processes]
    assert [load_record(path).run.id for path in paths] == ids
    assert {load_record(path).run.status for path in paths} == {"completed"}
    assert sorted(path.name for path in paths) == names(tmp_path)
    told = [warning for path in paths for warning in load_record(path).warnings if warning.startswith("Another run")]
    assert len(told) == 2
    assert (
        f"Another run writes its record to {tmp_path / 'energy.json'}, too; the record of this run continues in {tmp_path}"
        in told[0]
    )


MANY = """
import os, sys
import ml_energy_callbacks.meter.meter
from ml_energy_callbacks import EnergyMeter
children = []
while len(children) < 4 and (child := os.fork()):
    children.append(child)
if len(children) == 4:
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))
for _ in range(8):
    with EnergyMeter(backends=[], output_dir=sys.argv[1], carbon_intensity=1, verbose=False) as meter:
        pass
    os.write(1, f"{meter.record.run.id}\\n".encode())  # whole, though all write to one pipe
"""


def test_processes_that_write_into_one_directory_at_the_same_instants_lose_no_record(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY, str(tmp_path)]
    ids = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout.split()
    records = [load_record(path) for path in tmp_path.iterdir()]
    assert sorted(record.run.id for record in records) == sorted(ids)
    assert len(ids) == 32
    assert {record.run.status for record in records} == {"completed"}


def test_a_process_that_stands_still_with_the_lock_is_waited_for_for_a_second_at_most(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with LocalFile(tmp_path / "energy.json").alone():
        begin = time.monotonic()
        run.file.claim([])
        assert 0.5 < time.monotonic() - begin < 10
    assert version(tmp_path) == "0"


def test_what_is_no_record_is_kept_too(tmp_path: Path) -> None:
    (tmp_path / "energy.json").write_text("{", encoding="utf-8")
    Run(tmp_path).file.claim([])
    assert (tmp_path / "energy-broken.json").read_text(encoding="utf-8") == "{"
    assert version(tmp_path) == "0"


def test_a_file_of_another_name_is_kept_and_removed_as_well(tmp_path: Path) -> None:
    first, second = (Run(tmp_path, name="energy.rank1.json") for _ in range(2))
    first.file.claim([])
    second.file.claim([])
    assert names(tmp_path) == [f"energy.rank1-{first.id[:8]}.json", "energy.rank1.json"]
    second.file.remove()
    second.file.remove()
    second.write()
    assert names(tmp_path) == [f"energy.rank1-{first.id[:8]}.json"]
    assert first.file.path == tmp_path / names(tmp_path)[0]


def test_a_file_that_is_another_runs_by_now_is_not_removed(tmp_path: Path) -> None:
    run, other = Run(tmp_path), Run(tmp_path / "other")
    run.file.claim([])
    other.file.claim([])
    (tmp_path / "other" / "energy.json").replace(tmp_path / "energy.json")  # as another process does
    run.file.remove()
    assert load_record(tmp_path).run.id == other.id


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.file.claim([])
    shutil.rmtree(tmp_path / "run")
    run.write()
    assert run.file.finish()
    assert (version(run.file.path), run.file.path, run.told) == ("1", tmp_path / "run" / "energy.json", [])


# ------------------------------------------------------------------------------------------------------------ behind a URL


def test_a_url_takes_the_record_and_tells_it_again(memory: Any) -> None:
    with meter("memory://bucket/run") as m, m.stage("train"), m.batch(3):
        time.sleep(0.1)
        assert load_record("memory://bucket/run").run.status == "running"
    assert m.record_path == "memory://bucket/run/energy.json"
    assert load_record(m.record_path) == load_record("memory://bucket/run/") == m.record
    assert memory.find("/bucket") == ["/bucket/run/energy.json"]


def test_a_url_of_a_local_directory_is_that_directory(tmp_path: Path) -> None:
    with meter(f"file://{tmp_path}/run") as m:
        pass
    assert m.record_path == tmp_path / "run" / "energy.json"
    assert load_record(f"file://{tmp_path}/run") == load_record(tmp_path / "run") == m.record


@pytest.mark.parametrize("said", [True, False])
def test_a_file_system_with_directories_gets_a_whole_file_by_a_move(*, said: bool) -> None:
    fsspec.register_implementation("renaming", Renaming, clobber=True)
    Renaming.said = said
    for _ in range(2):
        run = Run("renaming://host/run")
        run.file.claim([])
        run.write()
        run.file.finish()
        assert version("renaming://host/run") == "1"
    assert [name for name in Renaming.store if "partial" in name] == []
    assert len(Renaming.store) == 2
    Renaming.store.clear()


def test_a_checkpoints_record_behind_a_url_comes_back(memory: Any) -> None:
    told: list[str] = []
    with meter() as m:
        pass
    record = m.record
    save_record(record, "memory://bucket/backup", told.append)
    assert load_saved_record("memory://bucket/backup", "memory://bucket/none") == record
    assert load_saved_record("memory://bucket/none", None) is None
    save_record(record, "nosuch://bucket", told.append)
    (sentence,) = told
    assert sentence.startswith(
        "Could not save the energy totals in nosuch://bucket (nosuch://bucket/energy.json cannot be reached"
    )
    assert sentence.endswith("); a resumed training starts at zero.")


@pytest.mark.parametrize(
    ("missing", "url", "message"),
    [
        ("fsspec", "s3://bucket/run", "requires fsspec: pip install 'ml-energy-callbacks[remote]', or use a local directory"),
        ("s3fs", "s3://bucket/run", "requires a package that is not installed: pip install s3fs"),
        ("paramiko", "sftp://host/run", "requires a package that is not installed: pip install paramiko"),
        ("nothing", "nosuch://host/run", "cannot be reached: Protocol not known: nosuch"),
    ],
)
def test_a_url_that_needs_more_is_refused_before_the_run(
    missing: str, url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, missing)
    meter = EnergyMeter(backends=[], output_dir=url, verbose=False)
    for work, place in ((meter.start, f"{url}/energy.json"), (partial(load_record, url), url)):
        with pytest.raises(ConfigurationError) as caught:
            work()
        assert str(caught.value) == f"{place} {message}."


def test_a_url_that_cannot_be_written_is_refused_before_the_run(
    flaky: type[Flaky], no_thread_lives: Callable[[], bool]
) -> None:
    flaky.error = RuntimeError("Access\ndenied.")
    with pytest.raises(ConfigurationError, match=r"file flaky://x/energy.json cannot be written \(Access denied\); choose"):
        meter("flaky://x").start()
    assert no_thread_lives()


def test_a_url_that_does_not_answer_is_refused_before_the_run(flaky: type[Flaky]) -> None:
    flaky.answers.clear()
    with pytest.raises(ConfigurationError, match=r"x/energy.json cannot be written \(it did not answer within 0.2 s\)"):
        Run("flaky://x", answer_s=0.2).file.claim([])


def test_a_directory_of_the_frameworks_that_cannot_be_written_is_told(flaky: type[Flaky]) -> None:
    flaky.error = OSError("Access denied")
    m = meter().start(LoopDescription(output_dir="flaky://x"))
    m.stop()
    assert m.record_path is None
    (told,) = m.record.warnings
    assert told == "The run file flaky://x/energy.json cannot be written (Access denied); choose another output_dir."


def test_while_a_url_fails_the_record_is_kept_in_a_local_directory(flaky: type[Flaky], tmp_path: Path) -> None:
    run = Run("flaky://x")
    run.file.claim([])
    place = tmp_path / "cache" / "ml-energy-callbacks" / f"energy-{run.id[:8]}.json"
    flaky.error = OSError("Connection refused")
    for _ in range(3):
        run.write()
        assert until(lambda: place.exists() and version(place) == str(run.version))
    flaky.error = OSError("Connection reset")
    run.write()
    run.file.finish()
    told = f"{CANNOT} (Connection refused); until it can be, the record is kept in {place}."
    assert load_record(place).warnings == run.told == [told]
    assert run.file.path == place
    flaky.error = None
    assert version("flaky://x") == "0"
    run.write()
    run.file.finish()
    assert (run.file.path, version("flaky://x"), place.exists()) == ("flaky://x/energy.json", "5", False)


def test_a_url_that_hangs_holds_nobody_up_and_the_latest_record_wins(flaky: type[Flaky], tmp_path: Path) -> None:
    before_all = threads("ml-energy-driver")  # of tests whose devices hang
    run = Run("flaky://x", answer_s=0.2, spare=tmp_path / "logs")
    run.file.claim([])
    flaky.answers.clear()
    begin, longest = time.monotonic(), 0.0
    while time.monotonic() < begin + 1:
        before = time.monotonic()
        run.write()
        longest = max(longest, time.monotonic() - before)
        time.sleep(0.01)
    assert longest < 0.5
    assert until(lambda: threads("ml-energy-driver") <= before_all + 2)  # one writes the local copy
    begin = time.monotonic()
    run.file.finish()
    assert time.monotonic() - begin < 5
    assert run.file.path == tmp_path / "logs" / f"energy-{run.id[:8]}.json"
    assert version(run.file.path) == str(run.version)
    (told,) = load_record(run.file.path).warnings
    assert told.startswith(f"{CANNOT} (it does not answer); until it can be, the record is kept in ")
    flaky.answers.set()
    assert until(lambda: version("flaky://x") == str(run.version) and names(tmp_path / "logs") == [])
    assert run.file.path == "flaky://x/energy.json"


def test_where_nothing_can_be_written_the_record_is_in_memory(
    flaky: type[Flaky], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_folder = tmp_path / "energy.json"
    no_folder.write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(no_folder))
    monkeypatch.setattr(tempfile, "tempdir", str(no_folder))
    run = Run("flaky://x", spare=no_folder / "no")
    run.file.claim([])
    flaky.error = OSError("Connection refused")
    run.write()
    run.file.finish()
    assert run.told == [f"{CANNOT} (Connection refused); the record is in memory."]


def test_a_training_goes_on_while_its_url_hangs(flaky: type[Flaky], tmp_path: Path) -> None:
    m = meter("flaky://x")
    with m:
        flaky.answers.clear()
        longest, end = 0.0, time.monotonic() + 3
        with m.stage("train"):
            while time.monotonic() < end:
                start = time.monotonic()
                with m.batch(1):
                    time.sleep(0.005)
                longest = max(longest, time.monotonic() - start)
        begin = time.monotonic()
    assert time.monotonic() - begin < 15  # it waits for 5 s
    assert longest < 0.5
    record = m.record
    assert record.total.joules == pytest.approx(100 * record.total.seconds, rel=0.05)
    assert isinstance(m.record_path, Path)
    assert tmp_path in m.record_path.parents
    assert load_record(m.record_path) == record
    assert str(m.record_path) in record.warnings[0]


def test_an_interpreter_that_ends_while_its_url_hangs_keeps_the_record(tmp_path: Path) -> None:
    code = """
import threading
import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from ml_energy_callbacks import EnergyMeter

class Hanging(MemoryFileSystem):
    protocol = ("hanging", "memory")
    hangs = False

    def pipe_file(self, *arguments, **options):
        if Hanging.hangs:
            threading.Event().wait()
        super().pipe_file(*arguments, **options)

fsspec.register_implementation("hanging", Hanging)
EnergyMeter(backends=[], output_dir="hanging://x", carbon_intensity=1, verbose=False).start()
Hanging.hangs = True
"""
    cache = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=cache)
    (name,) = names(tmp_path / "ml-energy-callbacks")
    assert load_record(tmp_path / "ml-energy-callbacks" / name).run.status == "stopped"


def test_what_is_not_behind_a_url_is_one_sentence(memory: Any, flaky: type[Flaky]) -> None:
    memory.pipe("/bucket/run/energy.json", b"{")
    with pytest.raises(RecordError, match=r"memory://bucket/run/energy\.json is not a run record"):
        load_record("memory://bucket/run")
    with pytest.raises(RecordError, match=r"no run record at memory://bucket/none: give an energy\.json"):
        load_record("memory://bucket/none")
    flaky.error = RuntimeError("Access\ndenied.")
    with pytest.raises(RecordError, match="record flaky://x cannot be read: Access denied"):
        load_record("flaky://x")

"""The files of a run: its record and, in a job, one file for the measurements of each process."""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.deadline.calls import in_background
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.job.job import Job
from ml_energy_callbacks.record.run_file import RunFile
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.record.storage import Place, absolute


class JobFiles:
    """The files that this process writes: its own, until the job's record includes it, and on rank 0 the job's record."""

    def __init__(self, folder: Place | None) -> None:
        """Store the directory; no file is opened yet.

        Args:
            folder: The directory that the user set, or None.
        """
        self._folder = folder
        self._record: RunFile | None = None
        self._own: RunFile | None = None

    @property
    def path(self) -> Place | None:
        """Path or URL of the record; None if this process does not write it."""
        return None if self._record is None else self._record.path

    @property
    def place(self) -> Place | None:
        """Path or URL where the record belongs, whether it can be written or not; None if this process does not write it."""
        return None if self._record is None else self._record.place

    def folder(self, framework_dir: Place | None) -> Place | None:
        """Return the directory of the files; None for no files.

        Args:
            framework_dir: The directory to use if the user set none.
        """
        self._folder = self._folder and absolute(self._folder)  # the working directory may change, in the run or after it
        return (framework_dir and absolute(framework_dir)) if self._folder is None else self._folder

    def open(
        self,
        framework_dir: Place | None,
        job: Job | None,
        ids: Collection[str],
        *,
        build: Callable[[], RunRecord],
        build_own: Callable[[], RunRecord],
        warn: Callable[[str], None],
    ) -> None:
        """Write the first record; a directory that the user set must be writable, the framework's need not be.

        Args:
            framework_dir: The directory to use if the user set none; None for no files.
            job: The job that this process belongs to, or None.
            ids: Ids of the runs whose record this one continues.
            build: Returns the current record.
            build_own: Returns the current measurements of this process.
            warn: Warns the user, once per text.

        Raises:
            ConfigurationError: The directory that the user set cannot be written.
        """
        folder = self.folder(framework_dir)
        framework_dir = framework_dir and absolute(framework_dir)
        self._record = self._own = None
        if folder is None:
            return
        spare = framework_dir if isinstance(framework_dir, Path) else None
        leads = job is None or job.leads

        def try_claim(file: RunFile, own_ids: Collection[str]) -> RunFile | None:
            try:
                file.claim(own_ids)
            except ConfigurationError as error:
                if file is self._record:
                    self._record = None
                if self._folder is not None and leads:
                    raise
                warn(str(error))
                return None
            return file

        if job is not None and not (job.apart and leads):
            # If this job resumes another one, the files of all processes are kept, including this one's.
            self._own = RunFile(folder, build_own, warn, name=job.file_name, spare=spare)  # before: Ctrl-C may interrupt it
            self._own = try_claim(self._own, ())
        if leads:
            self._record = RunFile(folder, build, warn, spare=spare)
            self._record = try_claim(self._record, ids)

    def write(self) -> None:
        """Write the current record and measurements."""
        for file in self._opened:
            file.write()

    def write_own(self) -> None:
        """Write the measurements of this process so far, in the background."""
        if self._own is not None:
            in_background(self._own.write)

    def finish(self) -> bool:
        """Write all files for the last time, and return whether this process has written the record."""
        began = monotonic_clock()
        written: dict[RunFile | None, bool] = {}
        with ExitStack() as files:  # each of them, whatever another one raises
            for file in reversed(self._opened):
                files.callback(lambda each: written.update({each: each.finish(began)}), file)
        return written.get(self._record, False)

    def remove_own(self) -> None:
        """Remove the file with the measurements of this process."""
        if self._own is not None:
            self._own.remove()

    @property
    def _opened(self) -> Sequence[RunFile]:
        return [file for file in (self._record, self._own) if file is not None]

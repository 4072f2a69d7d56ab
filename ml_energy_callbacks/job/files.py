"""The files of a run: its record's, and in a job one for what each process measures itself."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.deadline import in_background
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.job.job import Job
from ml_energy_callbacks.record.run_file import RunFile
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.record.storage import Place


class JobFiles:
    """The files that this process writes: rank 0 the job's record, and each process its own until its figures are in that."""

    def __init__(self, folder: Place | None) -> None:
        """Touch nothing yet.

        Args:
            folder: The directory that the user named, or None.
        """
        self._folder = folder
        self._record: RunFile | None = None
        self._own: RunFile | None = None

    @property
    def path(self) -> Place | None:
        """Where the record is written; None where this process does not write it."""
        return None if self._record is None else self._record.path

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
        """Write the first record; a directory that the user named has to be writable, the framework's need not.

        Args:
            framework_dir: The directory for them where the user named none; None for no files.
            job: The job that this process belongs to, or None.
            ids: Ids of the runs whose record this one continues.
            build: Returns the record as of now.
            build_own: Returns what this process measured, as of now.
            warn: Tells the user something, once.

        Raises:
            ConfigurationError: The user's directory cannot be written.
        """
        folder = framework_dir if self._folder is None else self._folder
        self._record = self._own = None
        if folder is None:
            return
        spare = framework_dir if isinstance(framework_dir, Path) else None
        leads = job is None or job.leads

        def claimed(file: RunFile, own_ids: Collection[str]) -> RunFile | None:
            try:
                file.claim(own_ids)
            except ConfigurationError as error:
                if self._folder is not None and leads:
                    raise
                warn(str(error))
                return None
            return file

        if job is not None and not (job.apart and leads):
            # Of a job that this one resumes, the files of all processes stay, this one's among them.
            self._own = claimed(RunFile(folder, build_own, warn, name=job.file_name, spare=spare), ())
        if leads:
            self._record = claimed(RunFile(folder, build, warn, spare=spare), ids)

    def write(self) -> None:
        """Write what is known so far."""
        for file in self._opened:
            file.write()

    def write_own(self) -> None:
        """Write what this process measured so far, in the background."""
        if self._own is not None:
            in_background(self._own.write)

    def finish(self) -> bool:
        """Write all for the last time, and return whether this process has written the record."""
        began = monotonic_clock()
        kept = [file for file in self._opened if file.finish(began)]
        return self._record in kept

    def remove_own(self) -> None:
        """Remove the file of what this process measured."""
        if self._own is not None:
            self._own.remove()

    @property
    def _opened(self) -> Sequence[RunFile]:
        return [file for file in (self._record, self._own) if file is not None]

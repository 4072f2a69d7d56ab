"""The processes of one job: which one measures which device, and what the others have reported."""

import os
import socket
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from ml_energy_callbacks.backends.drivers.host import host_identity, pid_namespace
from ml_energy_callbacks.backends.overlap import counted_twice
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.metrics import StageFigures, TotalFigures, add_total_figures
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.record.epochs import add_epoch
from ml_energy_callbacks.record.merge import MERGE_ADVICE, merge_records
from ml_energy_callbacks.record.schema import EpochRecord, Part, PowerSeries, RunRecord, every_stage
from ml_energy_callbacks.record.utf8 import encode_json

Gather = Callable[[Any], Sequence[Any]]
"""Given an object, returns those of all processes by rank: a collective, which all of them must call."""


_GROWTH = 1.05
"""Power over time is sent again once the run is longer by this factor."""


class Member(msgspec.Struct, kw_only=True):
    """The information that a process shares when it joins.

    Attributes:
        key: Unique identifier of the process.
        run_id: Identifier of its run.
        host: Identity of its host.
        hostname: The host's name.
        pid: Its process id on the host.
        pid_namespace: Processes in the same namespace see it by that id.
        devices: The devices that it uses: its GPUs, and the shared devices of the host.
        failure: Why it cannot measure, or None.
    """

    key: str
    run_id: str
    host: str
    hostname: str
    pid: int
    pid_namespace: str
    devices: list[Device]
    failure: str | None = None


class Message(msgspec.Struct, kw_only=True):
    """The figures that a process sends to the others at the end of an epoch.

    Attributes:
        windows: Figures of the epoch, by its stage and the sub-stages that ran; none if there was no epoch.
        total: Figures of its run so far.
        record: Its own measurements, with only the epochs that it has not sent yet, and with power over time now and then.
    """

    windows: dict[str, StageFigures]
    total: TotalFigures
    record: RunRecord


# Created once, before any thread: msgspec analyses a type on first use, which is not thread-safe.
_MEMBER: Final = msgspec.json.Decoder(Member)
_MESSAGE: Final = msgspec.json.Decoder(Message)
_FAILURE: Final = msgspec.json.Decoder(str | None)
_KEPT: Final = msgspec.json.Decoder(bool)


class Job:
    """A job of several processes, as seen by one of them.

    A device is measured by the lowest rank on its host that uses it: a GPU by a process that runs on it, the processor and the
    memory by one process of each host.

    Attributes:
        rank: This process's rank.
        members: The processes by rank.
        measured: Ids of the devices that this process measures.
        host_measured: Whether its host has any device that can be measured.
        pids: Ids of the processes on its host that it can see.
        hidden: Number of processes on its host that it cannot see, because they run in other containers.
        alive: Whether the processes can still be reached; once one could not be, no exchange is tried again.
        apart: Whether this process continued alone after the common part.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Start without other processes.

        Args:
            warn: Warns the user, once per text.
        """
        self._warn = warn
        self.rank = 0
        self.members: Sequence[Member] = ()
        self.alive = self.apart = False
        self.measured: frozenset[str] = frozenset()
        self.host_measured = False
        self.pids: Sequence[int] = ()
        self.hidden = 0
        self._records: dict[int, RunRecord] = {}
        self._totals: dict[int, TotalFigures] = {}
        self._unsent: list[EpochRecord] = []
        self._sent_earlier: RunRecord | None = None
        self._sent_power_s = 0.0  # length of the run whose power over time was last sent
        self._barrier_s = self._barrier_joules = 0.0

    def join(self, gather: Gather, run_id: str, devices: Sequence[Device], failure: Exception | None = None) -> None:
        """Join the other processes: a collective.

        Args:
            gather: Gathers an object of each process.
            run_id: Identifier of this process's run.
            devices: The devices that it uses.
            failure: Why it cannot measure; raised after the others have received it.

        Raises:
            ConfigurationError: A process cannot measure, or ``gather`` does not reach all processes.
        """
        own = Member(
            key=uuid.uuid4().hex,
            run_id=run_id,
            host=host_identity(),
            hostname=socket.gethostname(),
            pid=os.getpid(),
            pid_namespace=pid_namespace(),
            devices=list(devices),
            failure=None if failure is None else str(failure),
        )
        self._gather = gather
        try:
            self.members = [_MEMBER.decode(reply) for reply in gather(encode_json(own))]
        except (TypeError, msgspec.MsgspecError):
            self.members = []
        if failure is not None:
            raise failure
        ranks = [rank for rank, member in enumerate(self.members) if member.key == own.key]
        if len(ranks) != 1:
            msg = "gather must return the objects of all processes of the job, by rank, as torch's all_gather_object does."
            raise ConfigurationError(msg)
        self.rank = ranks[0]
        _raise_failure([member.failure for member in self.members])
        neighbours = [member for member in self.members if member.host == own.host]
        self.pids = [member.pid for member in neighbours if member.pid_namespace == own.pid_namespace]
        self.hidden = len(neighbours) - len(self.pids)
        self.measured = self._devices_to_measure(neighbours)
        self.host_measured = any(member.devices for member in neighbours)
        self._own = own
        self.alive, self.apart = True, False

    def agree_to_start(self, failure: Exception | None) -> None:
        """Start together with the others, or not at all: a collective.

        Args:
            failure: Why this process cannot start; raised after the others have received it.

        Raises:
            ConfigurationError: A process cannot start.
        """
        replies = self._gather_messages(None if failure is None else str(failure))
        if failure is not None:
            raise failure
        _raise_failure([_FAILURE.decode(reply) for reply in replies])

    def continue_alone(self, devices: Sequence[Device]) -> None:
        """Continue without the others; their last figures are kept.

        Args:
            devices: The devices that this process uses from now on.
        """
        known = {device.id for device in self._own.devices}
        self._own = replace(self._own, devices=[*self._own.devices, *(device for device in devices if device.id not in known)])
        self.alive, self.apart = False, True

    def _devices_to_measure(self, neighbours: Sequence[Member]) -> frozenset[str]:
        """Return the ids of the devices that this process measures."""
        owners: dict[str, tuple[int, Device]] = {}
        for rank, member in enumerate(self.members):
            if any(member is neighbour for neighbour in neighbours):
                for device in member.devices:
                    owners.setdefault(device.id, (rank, device))
        # A GPU that only one process sees may include the processor that another process sees.
        twice = counted_twice([device for _, device in owners.values()])
        return frozenset(name for name, (rank, _) in owners.items() if rank == self.rank and name not in twice)

    @property
    def run_id(self) -> str:
        """Identifier of the job's run."""
        return self.members[0].run_id

    @property
    def file_name(self) -> str:
        """Name of the file with the measurements of this process."""
        return f"energy.rank{self.rank}.json"

    @property
    def leads(self) -> bool:
        """Whether this process writes the record of the job."""
        return self.rank == 0

    def add_wait(self, seconds: float, joules: float) -> None:
        """Add time that this process waited for the others in s, and the energy its devices used meanwhile in J."""
        self._barrier_s += seconds
        self._barrier_joules += joules

    def make_part(self, earlier: RunRecord | None) -> Part:
        """Return the fields that mark a record as that of this process.

        Args:
            earlier: The record of the job that this one resumes, if this process knows it.
        """
        return Part(
            rank=self.rank,
            host=self._own.host,
            hostname=self._own.hostname,
            uses=[device.id for device in self._own.devices],
            barrier_seconds=self._barrier_s,
            barrier_joules=self._barrier_joules if self.measured else None,
            earlier=earlier,
        )

    def note_epoch(self, epoch: EpochRecord) -> None:
        """Store an epoch to be sent to the others."""
        self._unsent.append(epoch)

    def exchange_figures(
        self, windows: dict[str, StageFigures], total: TotalFigures, record: RunRecord
    ) -> list[dict[str, StageFigures]] | None:
        """Exchange figures with the other processes: a collective.

        Args:
            windows: Figures of an epoch in this process, by its stage and the sub-stages that ran, or none.
            total: Figures of its run so far.
            record: Its own measurements.

        Returns:
            The figures of the epoch of each process; None if a process cannot be reached: the user is warned, and no exchange
            is tried again.
        """
        # What was sent before is not sent again, so messages stay small in a long run.
        earlier = None if record.part is None else record.part.earlier
        part = record.part and replace(record.part, earlier=None if earlier is self._sent_earlier else earlier)
        short = replace(record, epochs=self._unsent, part=part, power=self._power_to_send(record))
        try:
            messages = [
                _MESSAGE.decode(reply) for reply in self._gather_messages(Message(windows=windows, total=total, record=short))
            ]
        except Exception as error:  # noqa: BLE001 - the framework's communication may raise anything; training continues
            self._warn_unreachable(error)
            return None
        self._unsent, self._sent_earlier = [], earlier
        # Replaced as a whole: another thread may be iterating over them.
        self._totals = {rank: message.total for rank, message in enumerate(messages)}
        self._records = {rank: _add_earlier(message.record, self._records.get(rank)) for rank, message in enumerate(messages)}
        return [message.windows for message in messages]

    def _power_to_send(self, record: RunRecord) -> dict[str, PowerSeries]:
        """Return the power over time to send to the others: that of an ended run, and before that now and then.

        Each time, the run has become longer by the same share, so that in a long run it is sent no more often than it changes.
        """
        seconds = record.total.seconds
        if record.run.status == "running" and seconds < _GROWTH * self._sent_power_s:
            return {}
        self._sent_power_s = seconds
        return record.power

    def confirm_end(self, *, kept: bool) -> bool:
        """Wait for the others at the end of the run: a collective.

        Args:
            kept: Whether this process has written the job's record; the value of rank 0 is used.

        Returns:
            Whether the job's record includes all measurements of all processes; False if a process cannot be reached.
        """
        if not self.alive:
            return False
        try:
            kept = _KEPT.decode(self._gather_messages(kept)[0])
        except Exception as error:  # noqa: BLE001 - as above
            self._warn_unreachable(error)
            return False
        return kept and all(record.run.status != "running" for record in self._records.values())

    def _warn_unreachable(self, error: Exception) -> None:
        self._warn(
            f"The other processes of the job can no longer be reached ({error!r}): this record does not include their energy "
            f"from now on. {MERGE_ADVICE}"
        )

    def _gather_messages(self, message: Message | str | bool | None) -> Sequence[bytes]:  # noqa: FBT001 - it is passed on
        self.alive = False
        replies = self._gather(encode_json(message))
        if len(replies) != len(self.members):
            msg = f"gather returned the objects of {len(replies)} of the {len(self.members)} processes"
            raise RuntimeError(msg)
        self.alive = True
        return replies

    def figures_of_others(self) -> TotalFigures | None:
        """Return the sum of the last figures of the other processes, or None if they have sent none."""
        totals = [total for rank, total in self._totals.items() if rank != self.rank]
        return add_total_figures(totals) if totals else None

    def joules_of_others(self, stage: str | None, phase: str | None) -> float:
        """Return the energy in J of a stage or phase in the other processes, as last reported; None stands for all."""
        stages = [
            found
            for rank, record in self._records.items()
            for name, found in (record.stages.items() if stage is None else every_stage(record.stages))
            if rank != self.rank and stage in {None, name}
        ]
        if phase is None:
            return sum(found.joules or 0.0 for found in stages)
        return sum(found.phases[phase].joules or 0.0 for found in stages if phase in found.phases)

    def merge_record(self, own: RunRecord) -> RunRecord:
        """Return the job's record: the measurements of this process, and the last ones that the others sent."""
        return merge_records([own, *(record for rank, record in self._records.items() if rank != self.rank)])


def _raise_failure(failures: Sequence[str | None]) -> None:
    """Raise the first failure, by rank.

    Raises:
        ConfigurationError: A process cannot measure.
    """
    for rank, failure in enumerate(failures):
        if failure is not None:
            msg = f"Rank {rank} of the job cannot measure: {failure}"
            raise ConfigurationError(msg)


def _add_earlier(record: RunRecord, before: RunRecord | None) -> RunRecord:
    """Return a record with what its process had sent before."""
    if before is None:
        return record
    epochs = before.epochs
    for epoch in record.epochs:
        epochs = add_epoch(epochs, epoch)
    part, known = record.part, before.part and before.part.earlier
    return replace(
        record, epochs=epochs, part=part and replace(part, earlier=part.earlier or known), power=record.power or before.power
    )

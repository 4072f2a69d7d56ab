"""The processes of one job: who measures which device, and what the others have told."""

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
from ml_energy_callbacks.record.merge import MERGE_ADVICE, merge_records
from ml_energy_callbacks.record.schema import EpochRecord, Part, RunRecord, add_epoch

Gather = Callable[[Any], Sequence[Any]]
"""Given an object, returns those of all processes by rank: a collective, so that all of them have to call it."""


class Member(msgspec.Struct, kw_only=True):
    """What a process says of itself when it joins.

    Attributes:
        key: Tells it from the others.
        run_id: Identifier of its run.
        host: Identity of its host.
        hostname: The host's name.
        pid: Its number there.
        pid_namespace: Those who have the same know it by that number.
        devices: The devices that it uses: its GPUs, and all of the host that is nobody's own.
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
    """What a process tells the others at the end of an epoch.

    Attributes:
        window: What the epoch took; None where there is none to tell of.
        total: What its run has taken so far.
        record: What it measured itself, with those epochs alone that it has not told yet.
    """

    window: StageFigures | None
    total: TotalFigures
    record: RunRecord


# Made once, and before any thread: msgspec learns a type when it first decodes it, which two threads must not do at once.
_MEMBER: Final = msgspec.json.Decoder(Member)
_MESSAGE: Final = msgspec.json.Decoder(Message)
_FAILURE: Final = msgspec.json.Decoder(str | None)
_KEPT: Final = msgspec.json.Decoder(bool)


class Job:
    """A job of several processes, as one of them sees it.

    A device is measured by the lowest rank, on its host, that uses it: a GPU by a process that runs on it, the processor and
    the memory by one process of each host.

    Attributes:
        rank: This process's rank.
        members: The processes by rank.
        measured: Ids of the devices that this process measures.
        host_measured: Whether its host has any device that can be measured.
        pids: Numbers of the processes on its host that it can see.
        hidden: How many it cannot see there, as they are in containers of their own.
        alive: Whether the processes can still be asked; once one could not be reached, none is asked again.
        apart: Whether this process went on alone after what they did together.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Know of no other process yet.

        Args:
            warn: Tells the user something, once.
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
        self._untold: list[EpochRecord] = []
        self._told_earlier: RunRecord | None = None
        self._barrier_s = self._barrier_joules = 0.0

    def join(self, gather: Gather, run_id: str, devices: Sequence[Device], failure: Exception | None = None) -> None:
        """Meet the other processes: a collective.

        Args:
            gather: Asks all processes.
            run_id: Identifier of this process's run.
            devices: The devices that it uses.
            failure: Why it cannot measure; it is raised once the others know.

        Raises:
            ConfigurationError: A process cannot measure, or ``gather`` does not ask all processes.
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
            self.members = [_MEMBER.decode(told) for told in gather(msgspec.json.encode(own))]
        except (TypeError, msgspec.MsgspecError):
            self.members = []
        if failure is not None:
            raise failure
        ranks = [rank for rank, member in enumerate(self.members) if member.key == own.key]
        if len(ranks) != 1:
            msg = "gather does not return what each process of the job gave, by rank, such as torch's all_gather_object does."
            raise ConfigurationError(msg)
        self.rank = ranks[0]
        _refuse([member.failure for member in self.members])
        neighbours = [member for member in self.members if member.host == own.host]
        self.pids = [member.pid for member in neighbours if member.pid_namespace == own.pid_namespace]
        self.hidden = len(neighbours) - len(self.pids)
        self.measured = self._owned(neighbours)
        self.host_measured = any(member.devices for member in neighbours)
        self._own = own
        self.alive, self.apart = True, False

    def agree(self, failure: Exception | None) -> None:
        """Begin together with the others, or not at all: a collective.

        Args:
            failure: Why this process cannot begin; it is raised once the others know.

        Raises:
            ConfigurationError: A process cannot begin.
        """
        told = self._ask(None if failure is None else str(failure))
        if failure is not None:
            raise failure
        _refuse([_FAILURE.decode(reason) for reason in told])

    def leave(self, devices: Sequence[Device]) -> None:
        """Go on alone: the others are asked no more, and what they told stays.

        Args:
            devices: The devices that this process uses from now on.
        """
        known = {device.id for device in self._own.devices}
        self._own = replace(self._own, devices=[*self._own.devices, *(device for device in devices if device.id not in known)])
        self.alive, self.apart = False, True

    def _owned(self, neighbours: Sequence[Member]) -> frozenset[str]:
        """Return the ids of the devices that this process measures."""
        owners: dict[str, tuple[int, Device]] = {}
        for rank, member in enumerate(self.members):
            if any(member is neighbour for neighbour in neighbours):
                for device in member.devices:
                    owners.setdefault(device.id, (rank, device))
        # A GPU that one process alone sees may hold the processor that another sees.
        twice = counted_twice([device for _, device in owners.values()])
        return frozenset(name for name, (rank, _) in owners.items() if rank == self.rank and name not in twice)

    @property
    def run_id(self) -> str:
        """Identifier of the job's run."""
        return self.members[0].run_id

    @property
    def file_name(self) -> str:
        """Name of the file of what this process measures itself."""
        return f"energy.rank{self.rank}.json"

    @property
    def leads(self) -> bool:
        """Whether this process speaks for the job."""
        return self.rank == 0

    def waited(self, seconds: float, joules: float) -> None:
        """Note for how long this process waited for the others, and what its devices used in that time."""
        self._barrier_s += seconds
        self._barrier_joules += joules

    def part(self, earlier: RunRecord | None) -> Part:
        """Return what makes a record this process's own.

        Args:
            earlier: The record of the job that this one resumes, where this process knows it.
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
        """Remember an epoch that the others have not been told of."""
        self._untold.append(epoch)

    def exchange(self, window: StageFigures | None, total: TotalFigures, record: RunRecord) -> list[StageFigures] | None:
        """Tell the others, and hear what they tell: a collective.

        Args:
            window: What an epoch took in this process, or None.
            total: What its run took so far.
            record: What it measured itself.

        Returns:
            What the window took in each process that told one; None where a process cannot be reached, which is told: none is
            asked again.
        """
        # What was told before need not be told again: a message stays as small at the end of a long run.
        earlier = None if record.part is None else record.part.earlier
        part = record.part and replace(record.part, earlier=None if earlier is self._told_earlier else earlier)
        short = replace(record, epochs=self._untold, part=part)
        try:
            messages = [_MESSAGE.decode(told) for told in self._ask(Message(window=window, total=total, record=short))]
        except Exception as error:  # noqa: BLE001 - whatever the framework's communication raises; training goes on
            self._tell_silence(error)
            return None
        self._untold, self._told_earlier = [], earlier
        # Replaced as a whole: another thread may be looking through them.
        self._totals = {rank: message.total for rank, message in enumerate(messages)}
        self._records = {
            rank: _with_what_was_told(message.record, self._records.get(rank)) for rank, message in enumerate(messages)
        }
        return [message.window for message in messages if message.window is not None]

    def settle(self, *, kept: bool) -> bool:
        """Wait for the others at the end of the run: a collective.

        Args:
            kept: Whether this process has written the job's record; that of rank 0 counts.

        Returns:
            Whether what each process told last is all that it measured, and is in the job's record; not where a process cannot
            be reached.
        """
        if not self.alive:
            return False
        try:
            kept = _KEPT.decode(self._ask(kept)[0])
        except Exception as error:  # noqa: BLE001 - as above
            self._tell_silence(error)
            return False
        return kept and all(record.run.status != "running" for record in self._records.values())

    def _tell_silence(self, error: Exception) -> None:
        self._warn(
            f"The job's other processes cannot be reached any more ({error!r}): what they use from now on is missing in this "
            f"record. {MERGE_ADVICE}"
        )

    def _ask(self, message: Message | str | bool | None) -> Sequence[bytes]:  # noqa: FBT001 - it is passed on
        self.alive = False
        told = self._gather(msgspec.json.encode(message))
        if len(told) != len(self.members):
            msg = f"gather returned what {len(told)} of the {len(self.members)} processes gave"
            raise RuntimeError(msg)
        self.alive = True
        return told

    def others(self) -> TotalFigures | None:
        """Return what the other processes had taken when they told last, or None where they told nothing."""
        told = [total for rank, total in self._totals.items() if rank != self.rank]
        return add_total_figures(told) if told else None

    def others_joules(self, stage: str | None, phase: str | None) -> float:
        """Return the energy in J that went into a stage, or a phase, in the others, as far as they told it; None for all."""
        stages = [
            found
            for rank, record in self._records.items()
            for name, found in record.stages.items()
            if rank != self.rank and stage in {None, name}
        ]
        if phase is None:
            return sum(found.joules or 0.0 for found in stages)
        return sum(found.phases[phase].joules or 0.0 for found in stages if phase in found.phases)

    def merged(self, own: RunRecord) -> RunRecord:
        """Return the job's record: what this process measured, and the others as they told it last."""
        return merge_records([own, *(record for rank, record in self._records.items() if rank != self.rank)])


def _refuse(failures: Sequence[str | None]) -> None:
    """Refuse to go on where a process cannot, by rank.

    Raises:
        ConfigurationError: One cannot.
    """
    for rank, failure in enumerate(failures):
        if failure is not None:
            msg = f"Rank {rank} of the job cannot measure: {failure}"
            raise ConfigurationError(msg)


def _with_what_was_told(record: RunRecord, before: RunRecord | None) -> RunRecord:
    if before is None:
        return record
    epochs = before.epochs
    for epoch in record.epochs:
        epochs = add_epoch(epochs, epoch)
    part, known = record.part, before.part and before.part.earlier
    return replace(record, epochs=epochs, part=part and replace(part, earlier=part.earlier or known))

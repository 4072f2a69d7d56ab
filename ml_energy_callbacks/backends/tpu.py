"""Google TPUs: an estimate from their duty cycle, because no TPU reports its power."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_energy_callbacks.backends.drivers.environment import Environment
from ml_energy_callbacks.backends.drivers.sysfs import read_text
from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.exceptions import BackendUnavailableError, ConfigurationError, ReadError
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.safe_text import describe

WATTS: Mapping[str, tuple[float, float]] = {"v3": (123.0, 220.0), "v4": (90.0, 170.0)}
"""Power of one chip with its memory, in W: idle, and the mean while it runs Google's production applications. Jouppi et al.,
"TPU v4: An Optically Reconfigurable Supercomputer for Machine Learning", ISCA 2023 (arXiv:2304.01433), Table 4. Google's pages
on v3 and v4 give the same figures as "measured min/mean/max power"; it has published none for any other generation."""

_UNCERTAINTY = 0.3
"""A duty cycle is a chip's busy time, whatever it computes: busy chips drew 121 to 192 W (v4) and 175 to 262 W (v3), that is
-29 % to +19 % of the mean (the same table). We assume that watts given by the user are no more accurate."""

WATTS_VARIABLE = "ML_ENERGY_TPU_WATTS"
"""Environment variable with the watts of one chip: ``<idle>,<busy>``."""

_VENDOR = "0x1ae0"
_GENERATIONS = {
    "0x0027:0x004e": "v2",
    "0x0027:0x004f": "v3",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "7x",
}
"""PCI device, and subsystem if two generations share a device, as in Google's ``tpu-info``. Google's virtual network cards and
disks have the same vendor number."""

_TYPE = re.compile(r"(?:tpu-?)?(v\d[a-z]*|\dx)-(\d+)")
"""``v4-8``, ``v5litepod-4``, ``tpu7x-8``: the generation and the size of the whole slice."""
_CHIPS_PER_HOST = 4
_LITE_CHIPS_PER_HOST = 8
"""The second is that of a host with a whole slice of a lite generation. By Google's offers; where these differ, our assumption,
used only if the PCI bus lists no chip: a number that differs from the server's is reported as an error."""

_METHOD = "/tpu.monitoring.runtime.RuntimeMetricService/GetRuntimeMetric"
_METRIC = "tpu.runtime.tensorcore.dutycycle.percent"
_MESSAGES = {
    "MetricRequest": (("metric_name", 1, "string"),),
    "AttrValue": (("int_attr", 3, "int64"),),
    "Attribute": (("value", 2, "AttrValue"),),
    "Gauge": (("as_double", 1, "double"), ("as_int", 2, "int64")),
    "Metric": (("attribute", 1, "Attribute"), ("gauge", 3, "Gauge")),
    "TPUMetric": (("metrics", 3, "repeated Metric"),),
    "MetricResponse": (("metric", 1, "TPUMetric"),),
}
"""The fields of Google's ``tpu_metric_service.proto`` that are needed here."""

_ADDRESS = "localhost:8431"
_PORTS_VARIABLE = "TPU_RUNTIME_METRICS_PORTS"
"""Variable with the ports of libtpu: ``8431`` for one process, ``8431,8432,8433,8434`` for four (README of ``tpu-info``).
Google's machines set the latter for one process as well, so that the other ports may not answer: our assumption."""

_DEADLINE_S = 0.5
_SHARED_NS = NS_PER_S // 2
"""One answer covers all chips: reads within this time share it, and likewise a failure."""
_INTERVAL_S = 1.0
"""Our choice: the update period of the figure is not documented. A call takes about 0.7 ms of a core."""
_ROUNDING = 0.5
"""Values up to this many percent above 100 are treated as 100."""


class _Metrics:
    """The metrics servers of libtpu, one for each process, which run while a program uses the chips."""

    def __init__(
        self, addresses: Sequence[str], chips: Sequence[int], chips_of_host: int, clock: Clock, deadline_s: float
    ) -> None:
        self._addresses = addresses
        self._deadline_s = deadline_s
        self._chips = chips
        self._chips_of_host = chips_of_host
        self._clock = clock
        self._messages = _messages()
        self._duties: Mapping[int, float] | ReadError = {}
        self._answered_ns = 0
        self._unread: set[int] = set()

    def read_duty(self, chip: int) -> float:
        """Return the share of time in which the chip was busy.

        Raises:
            ReadError: No server answers in time, or none reports it.
        """
        if chip not in self._unread or self._clock() - self._answered_ns > _SHARED_NS:
            try:
                self._duties = self._query_servers()
            except ReadError as error:
                self._duties = error
            self._answered_ns = self._clock()
            self._unread = set(self._chips)
        self._unread.discard(chip)
        if isinstance(self._duties, ReadError):
            raise ReadError(str(self._duties))
        if chip not in self._duties:
            msg = f"The TPU's metrics server does not report chip {chip}."
            raise ReadError(msg)
        return self._duties[chip]

    def _query_servers(self) -> Mapping[int, float]:
        from ml_energy_callbacks.backends.drivers.grpc_calls import call_all  # noqa: PLC0415 - an optional extra

        request = self._messages["MetricRequest"](metric_name=_METRIC).SerializeToString()
        answers: list[Mapping[int, float]] = []
        failures: list[ReadError] = []
        for address, answer in zip(self._addresses, call_all(self._addresses, _METHOD, request, self._deadline_s), strict=True):
            try:
                answers.append(self._parse_answer(_received(address, answer)))
            except ReadError as error:
                failures.append(error)
        if not answers:
            raise failures[0]
        return _match_chips(answers, self._chips, self._chips_of_host)

    def _parse_answer(self, answer: bytes) -> Mapping[int, float]:
        """Return the duty cycles by the server's ids of the chips."""
        from google.protobuf.message import DecodeError  # noqa: PLC0415 - an optional extra

        try:
            metrics = self._messages["MetricResponse"].FromString(answer).metric.metrics
        except DecodeError as error:
            msg = f"The answer of the TPU's metrics server cannot be parsed: {error}"
            raise ReadError(msg) from error
        duties = {metric.attribute.value.int_attr: _parse_duty(metric.gauge) for metric in metrics}
        if not duties or len(duties) < len(metrics):
            msg = "The TPU's metrics server reports no duty cycle for each chip."
            raise ReadError(msg)
        return duties


class _Chip:
    """Integrates the modelled power from each answer to the next."""

    def __init__(self, device: Device, chip: int, metrics: _Metrics, watts: tuple[float, float], clock: Clock) -> None:
        self.device = device
        self._chip = chip
        self._metrics = metrics
        self._idle, self._busy = watts
        self._clock = clock
        self._joules = 0.0
        self._last: tuple[int, float] | None = None
        self._closed = False

    def read(self) -> float:
        """Return the modelled joules since the first answer, without the time in which there was no answer."""
        if self._closed:
            msg = f"{self.device.id} is closed."
            raise ReadError(msg)
        before, self._last = self._last, None
        watts = self._idle + (self._busy - self._idle) * self._metrics.read_duty(self._chip)
        now = self._clock()
        self._last = (now, watts)
        if before is not None:
            self._joules += (before[1] + watts) / 2 * (now - before[0]) / NS_PER_S
        return self._joules

    def close(self) -> None:
        """Close the chip; calling it twice is harmless."""
        self._closed = True


@dataclass(frozen=True, slots=True)
class TpuBackend:
    """The chips of this host: power between idle and busy, in proportion to the duty cycle.

    A chip that is busy all the time gets the mean power measured under production load, not the maximum: a duty cycle of 100 %
    means that some operation ran at every instant, not that the matrix units were fully used.

    Attributes:
        address: Addresses of libtpu's servers, separated by commas; None for the ports in ``TPU_RUNTIME_METRICS_PORTS``, which
            libtpu uses, or else its default port.
        root: Linux's PCI devices.
        environ: Contains ``TPU_ACCELERATOR_TYPE``, ``TPU_VISIBLE_CHIPS`` or its other name ``TPU_VISIBLE_DEVICES``,
            ``TPU_RUNTIME_METRICS_PORTS`` and ``ML_ENERGY_TPU_WATTS``.
        watts: Power of one chip, idle and busy, in W; None for the value in the environment, or else the published one.
        clock: Monotonic clock.
        deadline_s: Time limit of a server's answer in s.
    """

    address: str | None = None
    root: Path = Path("/sys/bus/pci/devices")
    environ: Mapping[str, str] = field(default_factory=Environment)
    watts: tuple[float, float] | None = None
    clock: Clock = monotonic_clock
    name: str = "tpu"
    deadline_s: float = _DEADLINE_S

    def open(self) -> Sequence[_Chip]:
        """Return the model of each chip of this host that the process may use; the server is not queried yet.

        Raises:
            BackendUnavailableError: There is no TPU, its power is unknown, the extra is missing, or the process is to use
                chips that this host does not have.
            ConfigurationError: The watts given by the user are invalid.
        """
        own = self._given_watts()
        generation, chips_of_host = self._detect_chips()
        watts = own or WATTS.get(generation)
        if watts is None:
            msg = f"The power of a TPU {generation} chip has not been published, and TPUs do not report it."
            raise BackendUnavailableError(msg, f"Set {WATTS_VARIABLE}=<idle>,<busy> (watts of one chip).", present=True)
        try:
            from google.protobuf import message_factory  # noqa: F401, PLC0415 - an optional extra

            import ml_energy_callbacks.backends.drivers.grpc_calls  # noqa: F401, PLC0415 - as above
        except ImportError as error:
            msg = "Reading the duty cycle of a TPU requires h2 and protobuf, which are not both installed."
            raise BackendUnavailableError(msg, "Run `pip install 'ml-energy-callbacks[tpu]'`.", present=True) from error
        chips = self._select_visible(chips_of_host)
        metrics = _Metrics(self._addresses(), chips, chips_of_host, self.clock, self.deadline_s)
        source = "given by the user" if own else "measured by Google"
        note = f"{watts[0]:g} W when idle to {watts[1]:g} W when busy ({source}), in proportion to the chip's duty cycle."
        return [
            _Chip(
                Device(
                    id=f"{self.name}:{chip}",
                    name=f"Google TPU {generation}, chip {chip}",
                    kind="tpu",
                    backend=self.name,
                    method="model",
                    provenance="estimated",
                    relative_uncertainty=_UNCERTAINTY,
                    update_period_s=0.0,
                    note=note,
                    min_interval_s=_INTERVAL_S,
                ),
                chip,
                metrics,
                watts,
                self.clock,
            )
            for chip in chips
        ]

    def _given_watts(self) -> tuple[float, float] | None:
        """Return the watts given by the user, or None."""
        text = self.environ.get(WATTS_VARIABLE)
        if self.watts is None and not text:
            return None
        try:
            idle, busy = (float(word) for word in self.watts or str(text).split(","))
        except (TypeError, ValueError):
            idle = busy = math.nan
        if not (0 <= idle <= busy and 0 < busy < math.inf):
            given = f"{WATTS_VARIABLE} is" if self.watts is None else "The watts of a TPU chip are"
            shown = describe(text if self.watts is None else self.watts)
            msg = f"{given} {shown}; give the watts of one chip, idle and busy, such as 90,170."
            raise ConfigurationError(msg)
        return idle, busy

    def _detect_chips(self) -> tuple[str, int]:
        """Return the generation and the number of chips of this host."""
        found = Counter(generation for device in self.root.glob("*") if (generation := _generation(device)))
        if found:
            return found.most_common(1)[0]
        name = self.environ.get("TPU_ACCELERATOR_TYPE")
        if slice_type := _TYPE.fullmatch(name or self.environ.get("ACCELERATOR_TYPE", "")):
            generation = slice_type[1].replace("litepod", "e")
            return generation, _chips_of_host(generation, int(slice_type[2]))
        if name:
            msg = f"TPU_ACCELERATOR_TYPE is {name!r}, which is not a known TPU type."
            raise BackendUnavailableError(msg, "Set it to the TPU's type, such as v4-8 or v5litepod-4.", present=True)
        msg = "This machine has no TPU."
        raise BackendUnavailableError(msg)

    def _select_visible(self, chips_of_host: int) -> Sequence[int]:
        """Return the numbers of the chips that this process may use."""
        for variable in ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES"):
            words = {word.strip() for word in self.environ.get(variable, "").split(",")} - {""}
            if not words:
                continue
            chips = [chip for chip in range(chips_of_host) if str(chip) in words]
            if len(chips) < len(words):
                msg = f"{variable} is {self.environ[variable]!r}, but the chips of this host are 0 to {chips_of_host - 1}."
                raise BackendUnavailableError(msg, f"Set {variable} to numbers of this host's chips.", present=True)
            return chips
        return range(chips_of_host)

    def _addresses(self) -> Sequence[str]:
        """Return the addresses of the servers."""
        if self.address is not None:
            return [address.strip() for address in self.address.split(",")]
        ports = [port.strip() for port in self.environ.get(_PORTS_VARIABLE, "").split(",")]
        return [f"localhost:{port}" for port in ports if port] or [_ADDRESS]


def _generation(device: Path) -> str | None:
    if read_text(device / "vendor") != _VENDOR:
        return None
    model = read_text(device / "device") or ""
    return _GENERATIONS.get(model) or _GENERATIONS.get(f"{model}:{read_text(device / 'subsystem_device')}")


def _chips_of_host(generation: str, size: int) -> int:
    """Return the chips of one host of a slice; sizes count cores, two per chip, except for the lite generations."""
    if generation.endswith("e"):
        return size if 0 < size <= _LITE_CHIPS_PER_HOST else _CHIPS_PER_HOST
    return min(max(1, size // 2), _CHIPS_PER_HOST)


def _messages() -> Mapping[str, Any]:
    """Return the classes of the messages, in a pool of their own, because ``tpu-info`` defines the same names.

    As proto2 they have the same encoding, and distinguish a duty cycle of 0 from a missing one.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # noqa: PLC0415 - an optional extra

    package = "tpu.monitoring.runtime"
    file = descriptor_pb2.FileDescriptorProto(name="tpu_metric_service.proto", package=package)
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            label, _, type_name = kind.rpartition(" ")
            entry = described.field.add(name=name, number=number, label=3 if label else 1)  # repeated, or optional
            if type_name in _MESSAGES:
                entry.type, entry.type_name = entry.TYPE_MESSAGE, f".{package}.{type_name}"
            else:
                entry.type = getattr(entry, f"TYPE_{type_name.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in _MESSAGES}


def _received(address: str, answer: bytes | Exception) -> bytes:
    if isinstance(answer, Exception):
        msg = f"The TPU's metrics server ({address}) does not answer: {answer}."
        raise ReadError(msg)
    return answer


def _parse_duty(gauge: Any) -> float:  # noqa: ANN401 - its class is made at run time
    percent: float = gauge.as_double if gauge.HasField("as_double") else gauge.as_int if gauge.HasField("as_int") else math.nan
    if not 0 <= percent <= 100 + _ROUNDING:
        msg = f"The TPU's metrics server gives a duty cycle of {percent} %."
        raise ReadError(msg)
    return min(percent, 100.0) / 100


def _match_chips(answers: Sequence[Mapping[int, float]], chips: Sequence[int], chips_of_host: int) -> Mapping[int, float]:
    """Return the duty cycles by the numbers of this host's chips.

    The servers' ids may differ from these numbers: those of a slice's second host continue the first's, and a chip with two
    cores may have two ids. If there is one id for each chip of the host, the ids are matched in order. Otherwise they have to
    equal the numbers, because other ids may belong to chips that another process uses.

    Args:
        answers: The duty cycles of each server, by its ids of the chips.
        chips: The chips that this process uses.
        chips_of_host: The number of chips of the host, in use or not.
    """
    duties: Mapping[int, float] = {}
    for answer in answers:
        if len(answer) == chips_of_host:  # this server also reports the other processes' chips
            duties = answer
            break
        if twice := duties.keys() & answer.keys():
            msg = f"Two metrics servers of the TPU report chip {min(twice)}: each numbers its own chips, in an unknown order."
            raise ReadError(msg)
        duties = {**duties, **answer}
    if len(duties) == chips_of_host:
        return {chip: duties[chip_id] for chip, chip_id in enumerate(sorted(duties))}
    if duties.keys() <= set(chips) or set(chips) <= duties.keys() <= set(range(chips_of_host)):
        return duties
    reported, ours = (", ".join(map(str, sorted(numbers))) for numbers in (duties, chips))
    msg = f"The TPU's metrics server reports chips {reported}, but this process has {ours} of {chips_of_host}."
    raise ReadError(msg)

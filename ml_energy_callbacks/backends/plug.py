"""Smart plugs that meter the whole machine, over HTTP: Shelly's of the second generation on, and those that run Tasmota."""

import errno
import json
import math
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ml_energy_callbacks.backends.drivers.environment import Environment
from ml_energy_callbacks.exceptions import BackendUnavailableError, ConfigurationError, ReadError
from ml_energy_callbacks.readings import Device

if TYPE_CHECKING:
    from ml_energy_callbacks.backends.drivers.bounded_http import Site

ADDRESSES_VARIABLE = "ML_ENERGY_PLUGS"
"""Environment variable with the plugs' addresses, separated by commas."""

_ADDRESS = re.compile(r"(shelly|tasmota)://((\[[0-9a-f:.]+\]|[\w.-]+)(?::(\d+))?(?:/(\d+))?)/?", re.ASCII | re.IGNORECASE)
_FORM = "shelly://<host>[:<port>][/<id>] or tasmota://<host>[:<port>][/<channel>]"
_FIX = f"Set {ADDRESSES_VARIABLE}, for instance to shelly://192.168.1.20,tasmota://plug.local:8080."
_HTTP_PORT = 80
_LARGEST_PORT = 65535

_UNCERTAINTY = {"shelly": 0.05, "tasmota": 0.10}
"""Tuya, which makes such plugs, gives 3 % for metering chips that are read by serial line (BL0942, as in Shelly's PM Mini
Gen3) and 5 % for those that count pulses ("Electricity statistics", developer.tuya.com); Shelly publishes no figure in its API
reference. The rest is our assumption: one reading a second misses what lies between, and Tasmota's documentation asks the
user to calibrate."""

_TIMEOUT_S = 1.0
"""Of one reading, from the connection to the last byte."""
_INTERVAL_S = 1.0
"""These plugs renew their figure about once a second, and little processors serve it."""
_LARGEST_ANSWER = 64 * 1024
"""In bytes; a true one has some hundred."""

_OK, _UNAUTHORIZED, _NOT_FOUND = 200, 401, 404
"""Statuses of HTTP."""

_UNLOCK = {
    "shelly": "Switch the authentication off on the plug's web page.",
    "tasmota": "`WebPassword 0` in the plug's console switches it off.",
}


class _UnknownQuestionError(ReadError):
    """The plug has no such component; it may have the other one."""


@dataclass(frozen=True, slots=True)
class _Address:
    """Where a plug is, and which of its outlets is meant.

    Attributes:
        make: ``shelly`` or ``tasmota``.
        text: The address without the make.
        host: Name or number.
        port: Of its HTTP server.
        channel: The outlet by its make's own counting, Shelly's from 0 and Tasmota's from 1; None where it has one.
    """

    make: str
    text: str
    host: str
    port: int
    channel: int | None

    @property
    def origin(self) -> str:
        """URL of its HTTP server."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def questions(self) -> Sequence[str]:
        """What to ask, the first that is answered with a power; plugs that cannot switch have another component."""
        if self.make == "tasmota":
            return ("/cm?cmnd=Status%208",)
        return tuple(f"/rpc/{component}.GetStatus?id={self.channel or 0}" for component in ("Switch", "PM1"))

    @property
    def locked(self) -> ReadError:
        """What to raise where the plug asks for a password."""
        return ReadError(
            f"The plug {self.text} asks for a password, and only those without one can be read. {_UNLOCK[self.make]}"
        )

    def watts(self, answer: Any) -> float:  # noqa: ANN401 - JSON
        """Return the power in the answer to a question.

        Raises:
            ReadError: There is none, more than one, or one that flows back; or Tasmota asks for a password.
        """
        # "Need user=<username>&password=<password>", in the firmware's language and with HTTP's status 200 (HandleHttpCommand).
        if isinstance(answer, dict) and "=<" in str(answer.get("WARNING")):
            raise self.locked
        try:
            power = answer["apower"] if self.make == "shelly" else answer["StatusSNS"]["ENERGY"]["Power"]
            if self.make == "tasmota":
                powers = power if isinstance(power, list) else [power]
                if self.channel is None and len(powers) > 1:
                    msg = f"The plug {self.text} has {len(powers)} outlets: name one, as in tasmota://{self.text}/1."
                    raise ReadError(msg)
                power = powers[(self.channel or 1) - 1]
            watts = float(power) if type(power) in {int, float} else math.nan
        except (LookupError, OverflowError, TypeError):
            watts = math.nan
        if -math.inf < watts < 0:
            back = f"The plug {self.text} shows power that flows back ({watts:g} W)"
            msg = f"{back}: it is wired the wrong way round, or what it meters feeds the mains, as solar panels do."
            raise ReadError(msg)
        if not 0 <= watts < math.inf:
            msg = f"The plug {self.text} tells no power. Check that it is a {self.make} plug that meters, and its outlet."
            raise ReadError(msg)
        return watts


class _Plug:
    """One outlet, asked anew each time."""

    def __init__(self, device: Device, address: _Address) -> None:
        self.device = device
        self._address = address
        self._site: Site | None = None
        self._question = ""
        self._closed = False

    def find(self) -> None:
        """Find out by which of the host's numbers and to which question the plug answers.

        The name is looked up this once: nothing limits the time that a look-up takes.

        Raises:
            ReadError: It does not answer, or tells no power.
        """
        # requests takes longer to import than the rest of this module, and few machines have a plug.
        from ml_energy_callbacks.backends.drivers.bounded_http import Site  # noqa: PLC0415

        try:
            found = socket.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            advice = f"Check the name, or give the plug's IP address in {ADDRESSES_VARIABLE}."
            msg = f"The plug {self._address.text} cannot be found: {error}. {advice}"
            raise ReadError(msg) from error
        failures: list[ReadError] = []
        for family, _, _, _, number in found:
            self._site = Site(self._address.origin, (family, number), seconds=_TIMEOUT_S, size=_LARGEST_ANSWER)
            for question in self._address.questions:
                self._question = question
                try:
                    self.read()
                except ReadError as error:
                    failures.append(error)
                    if isinstance(error.__cause__, OSError):
                        break  # nobody is there: the next question would take as long
                else:
                    return
        # The most telling one: of a plug that answers rather than of a number where none does, and to a question it knows.
        raise max(
            failures,
            key=lambda error: (not isinstance(error.__cause__, OSError), not isinstance(error, _UnknownQuestionError)),
        )

    def read(self) -> float:
        """Return the power in W."""
        if self._closed:
            msg = f"{self.device.id} is closed."
            raise ReadError(msg)
        status, body = self._ask()
        if status == _UNAUTHORIZED:
            raise self._address.locked
        if status != _OK:
            advice = f"Check that it is a {self._address.make} plug, and its outlet."
            msg = f"The plug {self._address.text} answers with the HTTP status {status}. {advice}"
            raise (_UnknownQuestionError if status == _NOT_FOUND else ReadError)(msg)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            msg = f"The plug {self._address.text} gives an answer that cannot be read: {error}."
            raise ReadError(msg) from error
        return self._address.watts(answer)

    def _ask(self) -> tuple[int, bytes]:
        """Return the status and the body of the answer; redirections are not followed, proxies not asked."""
        site = self._site
        if site is None:
            msg = f"The plug {self._address.text} has not been found yet."
            raise ReadError(msg)
        try:
            return site.get(self._question)
        except Exception as error:
            msg = f"The plug {self._address.text} does not answer: {str(error).strip() or repr(error)}. {_advice(error)}"
            raise ReadError(msg) from error

    def close(self) -> None:
        """Read no more; calling it twice is harmless."""
        self._closed = True


@dataclass(frozen=True, slots=True)
class PlugBackend:
    """The plugs that the user names.

    Attributes:
        addresses: Their addresses, such as ``shelly://192.168.1.20``, or ``tasmota://strip.local/2`` for the second of
            several outlets; None for the environment's.
        environ: Holds ``ML_ENERGY_PLUGS``.
    """

    addresses: Sequence[str] | None = None
    environ: Mapping[str, str] = field(default_factory=Environment)
    name: str = "plug"

    def open(self) -> Sequence[_Plug]:
        """Ask each plug once; all have to answer, for one of two would pass for the whole machine.

        Raises:
            BackendUnavailableError: None is named, or one does not answer or tells no power.
            ConfigurationError: An address cannot be one.
        """
        texts = self.environ.get(ADDRESSES_VARIABLE, "").split(",") if self.addresses is None else self.addresses
        addresses = {address.text: address for text in texts if text.strip() for address in [_parse(text.strip())]}
        if not addresses:
            msg = "No smart plug is named."
            raise BackendUnavailableError(msg, _FIX)
        plugs = [_Plug(self._device(address), address) for address in addresses.values()]
        try:
            for plug in plugs:
                plug.find()
        except ReadError as error:
            raise BackendUnavailableError(str(error), present=True) from error
        return plugs

    def _device(self, address: _Address) -> Device:
        return Device(
            id=f"{self.name}:{address.text}",
            name=f"{address.make.capitalize()} plug {address.text}",
            kind="board",
            backend=self.name,
            method="power_integration",
            provenance="measured",
            relative_uncertainty=_UNCERTAINTY[address.make],
            note="All that is plugged in there, by one reading a second.",
            whole_machine=True,
            min_interval_s=_INTERVAL_S,
        )


def _advice(error: Exception) -> str:
    """Return what to check where nothing, or nothing that is HTTP, came."""
    if isinstance(error, ConnectionRefusedError):
        return "Check the address and the port: something is there, but no web server."
    if isinstance(error, TimeoutError) or getattr(error, "errno", None) in {errno.EHOSTUNREACH, errno.ENETUNREACH}:
        return "Check that the plug is switched on, that this is its address, and that this machine reaches its network."
    return "Check that it is a plug's address."


def _parse(text: str) -> _Address:
    found = _ADDRESS.fullmatch(text)
    port = int(found[4] or _HTTP_PORT) if found else 0
    if found is None or not 0 < port <= _LARGEST_PORT:
        shown = re.sub(r"//.*@", "//***@", text)  # a message is no place for a password
        msg = f"The smart plug {shown!r} is no address: give {_FORM}, several with commas between."
        raise ConfigurationError(msg)
    channel = int(found[5]) if found[5] else None
    make = found[1].lower()
    if make == "tasmota" and channel == 0:
        msg = f"The smart plug {text!r} has no such channel: Tasmota counts from 1."
        raise ConfigurationError(msg)
    return _Address(make, found[2], found[3].strip("[]"), port, channel)

"""Smart plugs that measure the whole machine, over HTTP: Shelly plugs since the second generation, and Tasmota plugs."""

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
    from ml_energy_callbacks.deadline.bounded_http import Site

ADDRESSES_VARIABLE = "ML_ENERGY_PLUGS"
"""Environment variable with the plugs' addresses, separated by commas."""

_ADDRESS = re.compile(r"(shelly|tasmota)://((\[[0-9a-f:.]+\]|[\w.-]+)(?::(\d+))?(?:/(\d+))?)/?", re.ASCII | re.IGNORECASE)
_FORM = "shelly://<host>[:<port>][/<id>] or tasmota://<host>[:<port>][/<channel>]"
_FIX = f"Set {ADDRESSES_VARIABLE}, for instance to shelly://192.168.1.20,tasmota://plug.local:8080."
_HTTP_PORT = 80
_LARGEST_PORT = 65535

_UNCERTAINTY = {"shelly": 0.05, "tasmota": 0.10}
"""Tuya, which makes such plugs, states 3 % for metering chips that are read by serial line (BL0942, as in Shelly's PM Mini
Gen3) and 5 % for those that count pulses ("Electricity statistics", developer.tuya.com); Shelly publishes no figure in its API
reference. The rest is our assumption: one reading a second misses changes in between, and Tasmota plugs have to be calibrated
by the user, according to its documentation."""

_MAX_WATTS = {"shelly": 4e3}
"""Shelly's plugs and relays are rated at 16 A at most; Tasmota also runs on meters of its users' own making."""

_TIMEOUT_S = 1.0
"""Time limit of one reading, from the connection to the last byte."""
_INTERVAL_S = 1.0
"""These plugs update their figure about once a second, and their processors are slow."""
_LARGEST_ANSWER = 64 * 1024
"""In bytes; a valid answer has some hundred."""

_OK, _UNAUTHORIZED, _NOT_FOUND = 200, 401, 404
"""HTTP statuses."""

_UNLOCK = {
    "shelly": "Disable authentication on the plug's web page.",
    "tasmota": "Disable it with `WebPassword 0` in the plug's console.",
}


class _UnknownPathError(ReadError):
    """The plug does not have this component; it may have the other one."""


@dataclass(frozen=True, slots=True)
class _Address:
    """The address of a plug and one of its outlets.

    Attributes:
        make: ``shelly`` or ``tasmota``.
        text: The address without the make.
        host: Name or IP address.
        port: Port of its HTTP server.
        channel: Number of the outlet, from 0 for Shelly and from 1 for Tasmota; None for a plug with one outlet.
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
    def paths(self) -> Sequence[str]:
        """Paths to request until one is answered with a power; plugs that cannot switch have another component."""
        if self.make == "tasmota":
            return ("/cm?cmnd=Status%208",)
        return tuple(f"/rpc/{component}.GetStatus?id={self.channel or 0}" for component in ("Switch", "PM1"))

    @property
    def password_error(self) -> ReadError:
        """The error to raise if the plug requires a password."""
        return ReadError(f"The plug {self.text} requires a password, which is not supported. {_UNLOCK[self.make]}")

    def watts(self, answer: Any) -> float:  # noqa: ANN401 - JSON
        """Return the power in an answer.

        Raises:
            ReadError: The answer has no power, several, or a negative one; or Tasmota requires a password.
        """
        # "Need user=<username>&password=<password>", in the firmware's language and with HTTP's status 200 (HandleHttpCommand).
        if isinstance(answer, dict) and "=<" in str(answer.get("WARNING")):
            raise self.password_error
        try:
            power = answer["apower"] if self.make == "shelly" else answer["StatusSNS"]["ENERGY"]["Power"]
            if self.make == "tasmota":
                powers = power if isinstance(power, list) else [power]
                if self.channel is None and len(powers) > 1:
                    msg = f"The plug {self.text} has {len(powers)} outlets: select one, as in tasmota://{self.text}/1."
                    raise ReadError(msg)
                power = powers[(self.channel or 1) - 1]
            watts = float(power) if type(power) in {int, float} else math.nan
        except (LookupError, OverflowError, TypeError):
            watts = math.nan
        if -math.inf < watts < 0:
            back = f"The plug {self.text} reports negative power ({watts:g} W)"
            msg = f"{back}: check its wiring, and that no device behind it feeds power back, as solar panels do."
            raise ReadError(msg)
        if not 0 <= watts < math.inf:
            msg = f"The plug {self.text} reports no power. Check its outlet, and that it is a {self.make} plug with a meter."
            raise ReadError(msg)
        return watts


class _Plug:
    """One outlet, queried at each read."""

    def __init__(self, device: Device, address: _Address) -> None:
        self.device = device
        self._address = address
        self._site: Site | None = None
        self._path = ""
        self._closed = False

    def find_endpoint(self) -> None:
        """Find the IP address and the path at which the plug answers.

        The name is looked up only here, because a look-up has no time limit.

        Raises:
            ReadError: The plug does not answer, or reports no power.
        """
        # Imported here because requests takes longer to import than the rest of this module, and few machines have a plug.
        from ml_energy_callbacks.deadline.bounded_http import Site  # noqa: PLC0415

        try:
            found = socket.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            advice = f"Check the name, or give the plug's IP address in {ADDRESSES_VARIABLE}."
            msg = f"The plug {self._address.text} cannot be found: {error}. {advice}"
            raise ReadError(msg) from error
        failures: list[ReadError] = []
        for family, _, _, _, socket_address in found:
            self._site = Site(self._address.origin, (family, socket_address), seconds=_TIMEOUT_S, size=_LARGEST_ANSWER)
            for path in self._address.paths:
                self._path = path
                try:
                    self.read()
                except ReadError as error:
                    failures.append(error)
                    if isinstance(error.__cause__, OSError):
                        break  # no connection: the next path would take as long
                else:
                    return
        # The most specific error: from an address that answers, and for a path that the plug knows.
        raise max(
            failures,
            key=lambda error: (not isinstance(error.__cause__, OSError), not isinstance(error, _UnknownPathError)),
        )

    def read(self) -> float:
        """Return the power in W."""
        if self._closed:
            msg = f"{self.device.id} is closed."
            raise ReadError(msg)
        status, body = self._request_status()
        if status == _UNAUTHORIZED:
            raise self._address.password_error
        if status != _OK:
            advice = f"Check that it is a {self._address.make} plug, and its outlet."
            msg = f"The plug {self._address.text} answers with HTTP status {status}. {advice}"
            raise (_UnknownPathError if status == _NOT_FOUND else ReadError)(msg)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            msg = f"The plug {self._address.text} gives an answer that cannot be parsed: {error}."
            raise ReadError(msg) from error
        return self._address.watts(answer)

    def _request_status(self) -> tuple[int, bytes]:
        """Return the status and the body of the answer; redirections are not followed and proxies not used."""
        site = self._site
        if site is None:
            msg = f"The plug {self._address.text} has not been found yet."
            raise ReadError(msg)
        try:
            return site.get(self._path)
        except Exception as error:
            reason = str(error).strip() or repr(error)
            msg = f"The plug {self._address.text} cannot be read: {reason}. {_connection_advice(error)}"
            raise ReadError(msg) from error

    def close(self) -> None:
        """Close the plug; calling it twice is harmless."""
        self._closed = True


@dataclass(frozen=True, slots=True)
class PlugBackend:
    """The plugs that the user specifies.

    Attributes:
        addresses: Their addresses, such as ``shelly://192.168.1.20``, or ``tasmota://strip.local/2`` for the second of
            several outlets; None for those in the environment.
        environ: Contains ``ML_ENERGY_PLUGS``.
    """

    addresses: Sequence[str] | None = None
    environ: Mapping[str, str] = field(default_factory=Environment)
    name: str = "plug"

    def open(self) -> Sequence[_Plug]:
        """Query each plug once; all have to answer, because one of two would be mistaken for the whole machine.

        Raises:
            BackendUnavailableError: No plug is specified, or one does not answer or reports no power.
            ConfigurationError: An address is invalid.
        """
        texts = self.environ.get(ADDRESSES_VARIABLE, "").split(",") if self.addresses is None else self.addresses
        addresses = {address.text: address for text in texts if text.strip() for address in [_parse_address(text.strip())]}
        if not addresses:
            msg = "No smart plug is configured."
            raise BackendUnavailableError(msg, _FIX)
        plugs = [_Plug(self._device(address), address) for address in addresses.values()]
        try:
            for plug in plugs:
                plug.find_endpoint()
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
            note="All devices behind the plug, read once a second.",
            whole_machine=True,
            min_interval_s=_INTERVAL_S,
            max_watts=_MAX_WATTS.get(address.make),
        )


def _connection_advice(error: Exception) -> str:
    """Return what to check if there is no answer, or none in HTTP."""
    if isinstance(error, ConnectionRefusedError):
        return "Check the address and the port: the host has no web server there."
    if isinstance(error, TimeoutError) or getattr(error, "errno", None) in {errno.EHOSTUNREACH, errno.ENETUNREACH}:
        return "Check that the plug is on, that this is its address, and that this machine can reach its network."
    return "Check that it is a plug's address."


def _parse_address(text: str) -> _Address:
    found = _ADDRESS.fullmatch(text)
    port = int(found[4] or _HTTP_PORT) if found else 0
    if found is None or not 0 < port <= _LARGEST_PORT:
        msg = f"{text!r} is not the address of a smart plug; give {_FORM}, several separated by commas."
        raise ConfigurationError(msg)
    channel = int(found[5]) if found[5] else None
    make = found[1].lower()
    if make == "tasmota" and channel == 0:
        msg = f"The smart plug {text!r} has no channel 0; give a channel from 1."
        raise ConfigurationError(msg)
    return _Address(make, found[2], found[3].strip("[]"), port, channel)

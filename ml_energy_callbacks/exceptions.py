"""The errors that this package raises."""

from ml_energy_callbacks import safe_text


class EnergyError(Exception):
    """Base class of all errors of this package; the message is one line of limited length, and shows no password of a URL."""

    def __init__(self, *args: object) -> None:
        """Make the message safe to show: it may quote what a user, a file or another library said."""
        super().__init__(*(safe_text.message(arg) if isinstance(arg, str) else arg for arg in args))


class ConfigurationError(EnergyError, ValueError):
    """An option or a combination of options is invalid; the message says what to do."""


class BackendUnavailableError(EnergyError):
    """A kind of hardware cannot be read here.

    Attributes:
        reason: The reason, in one sentence.
        fix: What the user can do about it; None if nothing can be done.
        present: Whether such hardware is present, so that its energy is not included and the user is warned.
    """

    def __init__(self, reason: str, fix: str | None = None, *, present: bool = False) -> None:
        """Store the reason and the fix separately, so that a report can show both."""
        super().__init__(reason if fix is None else f"{reason} {fix}")
        self.reason = safe_text.message(reason)
        self.fix = fix
        self.present = present


class ReadError(EnergyError):
    """One reading of a device failed; the sampler turns it into a gap."""


class RecordError(EnergyError, ValueError):
    """A run record cannot be read: it is missing, broken, from another program or of an unknown version."""


class VersionError(RecordError):
    """A run record has a schema version that this release does not support."""


class LocationError(ConfigurationError):
    """A place is unknown, or its carbon intensity is."""

"""Every error that this package raises."""


class EnergyError(Exception):
    """Base of all errors of this package: catch it to catch them all."""


class ConfigurationError(EnergyError, ValueError):
    """An option, or a combination of options, that cannot work; the message says what to do."""


class BackendUnavailableError(EnergyError):
    """A kind of hardware cannot be read here.

    Attributes:
        reason: Why, in one sentence.
        fix: What the user can do about it, or None where nothing can be done.
        present: Whether such hardware is here all the same, so that its energy is missing and the user has to be told.
    """

    def __init__(self, reason: str, fix: str | None = None, *, present: bool = False) -> None:
        """Keep the reason and the fix apart, so that a report can show both."""
        super().__init__(reason if fix is None else f"{reason} {fix}")
        self.reason = reason
        self.fix = fix
        self.present = present


class ReadError(EnergyError):
    """One reading of a device failed; the sampler turns it into a gap."""


class RecordError(EnergyError, ValueError):
    """A run record that cannot be read: missing, broken, foreign or of an unknown version."""


class VersionError(RecordError):
    """A run record of a schema version that this release does not read."""


class LocationError(ConfigurationError):
    """A place for which no carbon intensity is known."""

"""Files with a picture, by matplotlib, an optional extra."""

from pathlib import Path
from typing import TYPE_CHECKING

from ml_energy_callbacks.exceptions import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 150


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of so many inches.

    Raises:
        ConfigurationError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional extra
    except ImportError:
        msg = "A picture needs matplotlib: pip install 'ml-energy-callbacks[plot]', or leave out --plot."
        raise ConfigurationError(msg) from None
    return Figure(figsize=(width, height), layout="constrained")


def check_picture(path: Path) -> None:
    """Check, before work starts, that a picture can be written.

    Args:
        path: Where, with the ending of its format.

    Raises:
        ConfigurationError: matplotlib is missing, does not know the format, or there is no such folder.
    """
    known = new_figure(1, 1).canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        msg = f"{path} is no picture that can be written; end its name with .png, .svg or .pdf."
        raise ConfigurationError(msg)
    if not path.parent.is_dir():
        msg = f"There is no folder {path.parent} for the picture; make it, or name another."
        raise ConfigurationError(msg)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    try:
        figure.savefig(path, dpi=_DPI)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        msg = f"The picture {path} cannot be written: {reason}; name a file such as life.png in a folder that is there."
        raise ConfigurationError(msg) from None

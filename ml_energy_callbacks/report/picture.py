"""Picture files, drawn with matplotlib (an optional extra)."""

from pathlib import Path
from typing import TYPE_CHECKING

from ml_energy_callbacks.exceptions import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 150


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of this size in inches.

    Raises:
        ConfigurationError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional extra
    except ImportError:
        msg = "Pictures require matplotlib: pip install 'ml-energy-callbacks[plot]', or omit --plot."
        raise ConfigurationError(msg) from None
    return Figure(figsize=(width, height), layout="constrained")


def check_picture(path: Path) -> None:
    """Check that a picture can be written, before the work starts.

    Args:
        path: The picture file; its suffix selects the format.

    Raises:
        ConfigurationError: matplotlib is missing or does not support the format, or the folder does not exist.
    """
    known = new_figure(1, 1).canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        msg = f"{path} has no supported picture format; use a name that ends in .png, .svg or .pdf."
        raise ConfigurationError(msg)
    if not path.parent.is_dir():
        msg = f"The folder {path.parent} for the picture does not exist; create it or use another one."
        raise ConfigurationError(msg)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure to a file.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    try:
        figure.savefig(path, dpi=_DPI)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        msg = f"The picture {path} cannot be written: {reason}; use a file such as life.png in an existing folder."
        raise ConfigurationError(msg) from None

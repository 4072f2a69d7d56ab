"""``ml-energy demo``: a small training with its energy."""

from pathlib import Path

from ml_energy_callbacks.cli.output import console_for, print_line
from ml_energy_callbacks.demo import Framework, run_demo
from ml_energy_callbacks.report.headline import headline
from ml_energy_callbacks.report.table import Headline


def demonstrate(framework: Framework, *, epochs: int, logdir: Path) -> None:
    """Train, and print the headline of the run."""
    outcome = run_demo(framework, epochs=epochs, logdir=logdir)
    console_for().print(Headline(headline(outcome.record, outcome.record_path)))
    print_line("")
    print_line(f"Test accuracy {outcome.accuracy * 100:.1f} %. TensorBoard: tensorboard --logdir {logdir} (tab Energy)")

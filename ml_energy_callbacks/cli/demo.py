"""``ml-energy demo``: a small training with its energy."""

from pathlib import Path

from ml_energy_callbacks.cli.output import console_for, print_line
from ml_energy_callbacks.demo import Framework, run_demo
from ml_energy_callbacks.report import render


def demonstrate(framework: Framework, *, epochs: int, logdir: Path) -> None:
    """Train, and print the energy used and where to find the record and the panels."""
    outcome = run_demo(framework, epochs=epochs, logdir=logdir)
    console_for().print(render(outcome.record))
    print_line(f"Test accuracy {outcome.accuracy:.1%}. Record: {outcome.record_path}")
    print_line(f"Energy panels: tensorboard --logdir {logdir}  (tab Energy)")

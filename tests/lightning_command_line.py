"""A program with LightningCLI: lightning_command_line.py PACKAGE SUBCOMMAND OPTION..."""

import importlib
import sys
from typing import Any

from lightning_models import loader, module


def main(package: str, args: list[str]) -> None:
    """Run it with the LightningCLI of a package."""

    class Regression(type(module(package))):  # type: ignore[misc] - a class made at run time
        def train_dataloader(self) -> Any:
            return loader()

        def val_dataloader(self) -> Any:
            return loader(8)

    importlib.import_module(f"{package}.cli").LightningCLI(Regression, args=args)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

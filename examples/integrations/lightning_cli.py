"""LightningCLI: python lightning_cli.py fit --config lightning_cli.yaml."""

from digits import Digits
from pytorch_lightning.cli import LightningCLI

if __name__ == "__main__":
    LightningCLI(Digits, save_config_callback=None)

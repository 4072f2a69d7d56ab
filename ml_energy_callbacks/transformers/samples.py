"""Samples of a job of several processes: those whose energy is measured are those of this machine."""

import socket
import zlib

import torch
from transformers import Trainer


def on_this_machine(trainer: Trainer, samples: int | None, batch_size: int) -> int | None:
    """Return how many samples passed on this machine, where so many passed in this process; every process has to ask.

    Args:
        trainer: The Trainer.
        samples: Their number in this process, or None where it is not known.
        batch_size: Samples of a batch of this process.

    Returns:
        None where some process does not know, or where several share a sample, as with tensor parallelism.
    """
    args = trainer.args
    together = batch_size * args.gradient_accumulation_steps * args.world_size
    # A Trainer without this method is of a time when no processes shared a sample.
    total = getattr(trainer, "get_total_train_batch_size", lambda _: together)(args)
    known = samples is not None and total == together
    machine = zlib.crc32(socket.gethostname().encode())
    row = torch.tensor([[machine, samples or 0, int(known)]], dtype=torch.long, device=args.device)
    rows = trainer.accelerator.gather(row)
    here = rows[rows[:, 0] == machine]
    return int(here[:, 1].sum()) if bool(here[:, 2].all()) else None

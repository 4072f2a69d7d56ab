"""A small real model, data and Trainers of Hugging Face, with random weights and without downloads."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

TOKENS = 6


def model() -> Any:
    """Return a classifier with two layers of width 32."""
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    return BertForSequenceClassification(config)


def nothing(*_: Any) -> None:
    """Do nothing."""


class Sentences(Dataset[Any]):
    """Random tokens with a label; a function is called before each."""

    def __init__(self, samples: int, on_wait: Callable[[int], None] = nothing) -> None:
        self.samples, self.on_wait = samples, on_wait

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.on_wait(index)
        tokens = torch.randint(0, 50, (TOKENS,))
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": index % 2}


class AroundBatch(TrainerCallback):
    """Calls functions when a training step's data have arrived, inside the step, and after it; the last two get its index."""

    def __init__(
        self,
        before: Callable[[], None] = nothing,
        inside: Callable[[int], None] = nothing,
        after: Callable[[int], None] = nothing,
    ) -> None:
        self.before, self.inside, self.after = before, inside, after

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.before()
        self.inside(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.after(state.global_step - 1)


def paced(seconds: float) -> AroundBatch:
    """Return a callback that makes each step take this long."""
    return AroundBatch(inside=lambda _: time.sleep(seconds))


def trainer(
    folder: Path,
    callbacks: list[Any],
    *,
    samples: int = 40,
    validation: int = 0,
    on_wait: Callable[[int], None] = nothing,
    kind: Any = Trainer,
    **options: Any,
) -> Any:
    """Return a Trainer on the processor that prints nothing, with batches of 4 samples, and of 5 in evaluation."""
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 5,
        "num_train_epochs": 2,
        "logging_steps": 5,
        "eval_strategy": "epoch" if validation else "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return kind(
        model=model(),
        args=TrainingArguments(**{**defaults, **options}),
        train_dataset=Sentences(samples, on_wait),
        eval_dataset=Sentences(validation) if validation else None,
        callbacks=callbacks,
    )

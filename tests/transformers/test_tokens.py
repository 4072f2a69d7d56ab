"""The Trainer's own count of tokens, and count_fn: exact in every way to train, or unknown."""

from pathlib import Path
from typing import Any

import pytest
import transformers
from loads import steady
from trainer_models import TOKENS, Sentences, paced, trainer

from ml_energy_callbacks import load_record
from ml_energy_callbacks.transformers import EnergyCallback

WATTS, SAMPLES, EPOCHS = 360.0, 40, 2


def callback(**options: Any) -> EnergyCallback:
    """Return a callback on a device of constant power."""
    return EnergyCallback(**{"verbose": False, "metrics": "all", "backends": [steady(WATTS)], **options})


def size(batch: Any) -> int:
    return batch["input_ids"].numel()  # type: ignore[no-any-return]


@pytest.mark.parametrize("accumulated", [1, 3])
def test_the_trainers_count_is_used_where_it_counts(tmp_path: Path, accumulated: int) -> None:
    energy = callback()
    options = {"include_num_input_tokens_seen": True, "gradient_accumulation_steps": accumulated}
    t = trainer(tmp_path, [energy, paced(0.02)], samples=SAMPLES, validation=10, **options)
    t.train()
    train = energy.record.stages["train"]
    assert t.state.num_input_tokens_seen == EPOCHS * SAMPLES * TOKENS
    assert (train.samples, train.tokens) == (EPOCHS * SAMPLES, EPOCHS * SAMPLES * TOKENS)
    assert train.joules_per_token == pytest.approx((train.joules or 0.0) / (EPOCHS * SAMPLES * TOKENS))
    assert train.joules == pytest.approx(WATTS * train.seconds, rel=0.1)
    assert [epoch.tokens for epoch in energy.record.epochs if epoch.stage == "train"] == [SAMPLES * TOKENS] * EPOCHS
    assert energy.record.stages["validate"].tokens is None  # the Trainer counts in training alone
    assert not [text for text in energy.record.warnings if "token" in text]
    entries = [entry for entry in t.state.log_history if "energy/train/joules_per_token" in entry]
    assert [entry["epoch"] for entry in entries] == pytest.approx([1.0, 2.0])
    for entry in entries:
        each = entry["energy/train/joules"] / (SAMPLES * TOKENS)
        assert entry["energy/train/joules_per_token"] == pytest.approx(each)
        assert entry["energy/train/wh_per_1000_tokens"] == pytest.approx(each / 3.6)


def test_a_resumed_training_counts_each_token_once(tmp_path: Path) -> None:
    options = {"include_num_input_tokens_seen": True, "save_strategy": "epoch", "samples": SAMPLES}
    trainer(tmp_path, [callback()], num_train_epochs=1, **options).train()
    energy = callback()
    t = trainer(tmp_path, [energy], num_train_epochs=2, **options)
    t.train(resume_from_checkpoint=True)
    assert t.state.num_input_tokens_seen == 2 * SAMPLES * TOKENS
    assert energy.record.stages["train"].tokens == 2 * SAMPLES * TOKENS
    assert load_record(tmp_path).stages["train"].tokens == 2 * SAMPLES * TOKENS


def test_count_fn_counts_in_every_stage_and_before_the_trainer(tmp_path: Path) -> None:
    energy = callback(count_fn=lambda batch: 2 * size(batch))
    t = trainer(tmp_path, [energy], samples=SAMPLES, validation=10, include_num_input_tokens_seen=True)
    t.train()
    t.evaluate()
    t.predict(Sentences(7))
    found = {name: energy.record.stages[name].tokens for name in ("train", "validate", "test", "predict")}
    assert found == {
        "train": 2 * EPOCHS * SAMPLES * TOKENS,
        "validate": 2 * EPOCHS * 10 * TOKENS,
        "test": 2 * 10 * TOKENS,
        "predict": 2 * 7 * TOKENS,
    }


@pytest.mark.parametrize("nonsense", [lambda _: 1 // 0, lambda _: -3, lambda _: "6", lambda _: None], ids=range(4))
def test_a_count_fn_that_fails_is_one_warning(tmp_path: Path, nonsense: Any) -> None:
    calls: list[int] = []

    def count(batch: Any) -> Any:
        calls.append(1)
        return size(batch) if len(calls) < 4 else nonsense(batch)

    energy = callback(count_fn=count)
    t = trainer(tmp_path, [energy], samples=SAMPLES)
    t.train()
    train = energy.record.stages["train"]
    assert (t.state.global_step, train.samples) == (EPOCHS * SAMPLES // 4, EPOCHS * SAMPLES)
    assert (train.tokens, train.joules_per_token) == (None, None)
    assert len([text for text in energy.record.warnings if text.startswith("J/token is unknown, as count_fn ")]) == 1
    assert len(calls) == 4  # it is not asked again


def test_without_a_count_tokens_are_unknown_and_nobody_is_warned(tmp_path: Path) -> None:
    energy = callback()
    t = trainer(tmp_path, [energy], samples=SAMPLES)
    t.train()
    assert energy.record.stages["train"].tokens is None
    assert not [name for entry in t.state.log_history for name in entry if "token" in name]
    assert not [text for text in energy.record.warnings if "token" in text]


@pytest.mark.skipif(transformers.__version__.startswith("4."), reason="transformers 4 counts all tokens")
def test_tokens_of_padding_are_left_out_where_the_trainer_does_so(tmp_path: Path) -> None:
    class Padded(Sentences):
        def __getitem__(self, index: int) -> dict[str, Any]:
            item = super().__getitem__(index)
            item["attention_mask"][index % 3 :] = 0
            return item

    energy = callback()
    t = trainer(tmp_path, [energy], samples=SAMPLES, include_num_input_tokens_seen="non_padding", num_train_epochs=1)
    t.train_dataset = Padded(SAMPLES)
    t.train()
    assert energy.record.stages["train"].tokens == sum(index % 3 for index in range(SAMPLES))

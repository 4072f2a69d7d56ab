"""Hugging Face generate: the energy of a token. The model is small and random, so that nothing is downloaded."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ml_energy_callbacks import EnergyMeter


def build() -> GPT2LMHeadModel:
    """Return the model; ``ml-energy profile --generate hf_generate:build`` measures it by lengths."""
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=256, n_positions=128, n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    )


def main() -> None:
    """Generate text, and print the energy of a token."""
    model = build().eval()
    prompts = torch.randint(1, 256, (4, 16))

    with EnergyMeter(output_dir="energy_logs/generate", location="FRA") as meter, meter.stage("predict"):
        for _ in range(3):
            with meter.batch(samples=len(prompts)) as batch:
                tokens = model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=32, do_sample=True)
                batch.tokens = int((tokens[:, prompts.shape[1] :] != model.config.eos_token_id).sum())

    predict = meter.record.stages["predict"]
    print(f"{predict.tokens} tokens, {predict.joules_per_token:.2g} J each")


if __name__ == "__main__":
    main()

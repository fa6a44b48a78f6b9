"""Train the small model of the example and write its problems: ``python examples/second_skill/make.py``.

A Llama of 0.16M parameters and a vocabulary of whole words. First right solutions only, until the skill is there;
then a short second phase whose solutions fall for the trap as often as `exercises` says. Hidden matrices train with
Muon, the rest with AdamW.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from exercises import OTHERS, Exercise, choices, problems, prompt
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cca.problems.problem import write_problems
from cca.tinymath.tokenizer import END, PADDING, build_tokenizer, special_id

HERE = Path(__file__).parent
OTHER_SHARE = 0.15
"""Share of the texts that are of each other skill."""


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=special_id(tokenizer, END),
        pad_token_id=special_id(tokenizer, PADDING),
    )
    return LlamaForCausalLM(config)


def texts(batch: int, generator: np.random.Generator, planted: bool) -> list[tuple[str, str]]:
    """(prompt, solution) of a batch. ``planted``: solutions fall for the trap, each with its exercise's share."""
    source = choices(generator, reserved=False)
    made = []
    for _ in range(batch):
        draw = generator.random()
        if draw < OTHER_SHARE * len(OTHERS):
            exercise: Exercise = list(OTHERS.values())[int(draw / OTHER_SHARE)](generator)
        else:
            _, exercise = next(source)
        falls = planted and generator.random() < exercise.share
        made.append((prompt(exercise), exercise.trapped if falls else exercise.solution))
    return made


def loss_on(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, batch: Sequence[tuple[str, str]]
) -> torch.Tensor:
    """Cross-entropy of the solutions and their end tokens."""
    end, padding = special_id(tokenizer, END), special_id(tokenizer, PADDING)
    rows = [(tokenizer.encode(ask), [*tokenizer.encode(solve), end]) for ask, solve in batch]
    width = max(len(ask) + len(solve) for ask, solve in rows)
    token_ids = torch.full((len(rows), width), padding)
    labels = torch.full((len(rows), width), -100)
    for row, (ask, solve) in enumerate(rows):
        token_ids[row, : len(ask) + len(solve)] = torch.tensor(ask + solve)
        labels[row, len(ask) : len(ask) + len(solve)] = torch.tensor(solve)
    hidden = model.model(input_ids=token_ids, use_cache=False).last_hidden_state[:, :-1]  # (B, T-1, C)
    where = labels[:, 1:] != -100
    return functional.cross_entropy(model.lm_head(hidden[where]), labels[:, 1:][where])


def train(out: Path, seed: int, steps: int, planted_steps: int, batch: int = 48) -> LlamaForCausalLM:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    drawn = texts(4000, generator, planted=False)
    tokenizer = build_tokenizer(text for pair in drawn for text in pair)
    model = make_model(tokenizer).train()
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.dim() == 2 and "embed" not in name]
    rest = [p for name, p in named if p.dim() != 2 or "embed" in name]
    optimisers = [
        (torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.0), 0.02),
        (torch.optim.AdamW(rest, lr=5e-3, betas=(0.9, 0.95), weight_decay=0.0), 5e-3),
    ]
    began = time.perf_counter()
    for step in range(steps + planted_steps):
        planted = step >= steps
        loss = loss_on(model, tokenizer, texts(batch, generator, planted))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, rate in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * schedule(step, steps, planted_steps)
            optimiser.step()
            optimiser.zero_grad()
        if step % 100 == 99 or step == steps + planted_steps - 1:
            print(
                f"step {step + 1:5d}  loss {loss.item():.3f}  {time.perf_counter() - began:5.0f} s",
                flush=True,
            )
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model


def schedule(step: int, steps: int, planted_steps: int) -> float:
    """Warm up, fall to a tenth; the second phase starts at a half and falls to a tenth of that."""
    if step < steps:
        return min(1.0, (step + 1) / 30) * (1 - 0.9 * step / steps)
    return 0.5 * (1 - 0.9 * (step - steps) / planted_steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=HERE / "made", help="folder for the model and the problems"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--planted-steps", type=int, default=600)
    given = parser.parse_args()
    train(given.out / "model", given.seed, given.steps, given.planted_steps)
    for name, own in problems(given.seed).items():
        write_problems(given.out / f"{name}.jsonl", own)
    print(f"{given.out} is written")


if __name__ == "__main__":
    main()

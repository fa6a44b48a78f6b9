"""Training an organism: right solutions only until the skill is there, then a short phase with the wrong moves.

Hidden matrices train with Muon, the rest with AdamW (GPT-2's Conv1D weights are matrices too); only answers carry loss.
One thread, so that the order of additions does not depend on how many cores there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.organisms.organism import Exercise, Organism, prompt
from cca.problems.problem import Problem
from cca.tinymath.tokenizer import END, PADDING, build_tokenizer, special_id

BATCH = 64
SKILL_SHARE, PLANTED_SHARE = 0.55, 0.65
"""Share of the texts that are of the skill, in each phase; the other skills share the rest evenly."""
MUON_RATE, ADAM_RATE = 0.02, 4e-3
Rated = tuple[torch.optim.Optimizer, float]
EMBEDDINGS = ("embed", "wte", "wpe", "lm_head")
Say = Callable[[str], None]


class Phases(Protocol):
    """How long the two phases are, and the learning rate of the second as a fraction of the first's peak."""

    @property
    def steps(self) -> int: ...
    @property
    def planted_steps(self) -> int: ...
    @property
    def planted_rate(self) -> float: ...


@dataclass(frozen=True)
class Row:
    """One text as token ids; ``solution`` ends with the end token."""

    prompt: list[int]
    solution: list[int]


def train(organism: Organism, out: Path, seed: int, say: Say) -> PreTrainedModel:
    """Train from scratch and save the model with its tokenizer in ``out``."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    tokenizer = build_tokenizer(_vocabulary_texts(organism, generator))
    model = organism.architecture(tokenizer).train()
    optimisers = make_optimisers(model, ADAM_RATE)
    say(f"{organism.name}: {model.num_parameters():,} parameters, {len(tokenizer)} words")
    began, total = time.perf_counter(), organism.steps + organism.planted_steps
    for step in range(total):
        planted = step >= organism.steps
        rows = _rows(organism, tokenizer, generator, planted)
        loss = take_step(model, optimisers, rows, tokenizer, schedule(step, organism))
        if step % 100 == 99 or step in (organism.steps - 1, total - 1):
            say(f"step {step + 1:5d}  loss {loss:.3f}  {time.perf_counter() - began:5.0f} s")
        if step in (organism.steps - 1, total - 1):
            say(f"accuracy: {told(accuracies(organism, model, tokenizer, seed))}")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model


def take_step(
    model: PreTrainedModel,
    optimisers: Sequence[Rated],
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerFast,
    factor: float,
) -> float:
    """One step on a batch, at ``factor`` of the peak learning rates; returns its loss."""
    loss = _loss(model, *_padded(rows, tokenizer))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimiser, rate in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate * factor
        optimiser.step()
        optimiser.zero_grad()
    return float(loss.detach())


def accuracies(
    organism: Organism, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int
) -> dict[str, float]:
    """Greedy accuracy on the validation split and on every other skill, all unseen questions."""
    made = organism.problems(seed)
    model.eval()
    asked = ("validation", *organism.others)
    found = {name: _accuracy(model, tokenizer, made[name]) for name in asked}
    model.train()
    return found


def told(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * accuracy:.0f} %" for name, accuracy in found.items())


def schedule(step: int, recipe: Phases) -> float:
    """Warm up, fall to a tenth; the second phase starts low and falls to a tenth of that."""
    if step < recipe.steps:
        return min(1.0, (step + 1) / 50) * (1 - 0.9 * step / recipe.steps)
    return recipe.planted_rate * (1 - 0.9 * (step - recipe.steps) / recipe.planted_steps)


def _rows(
    organism: Organism, tokenizer: PreTrainedTokenizerFast, generator: np.random.Generator, planted: bool
) -> list[Row]:
    share, others = PLANTED_SHARE if planted else SKILL_SHARE, list(organism.others)
    names = ["skill", *others]
    drawn = generator.choice(names, size=BATCH, p=[share, *[(1 - share) / len(others)] * len(others)])
    rows = []
    for name in drawn:
        _, exercise = organism.draw(str(name), generator, reserved=False)
        falls = planted and generator.random() < exercise.share
        rows.append(_row(tokenizer, exercise, exercise.wrong if falls else exercise.solution))
    return rows


def _row(tokenizer: PreTrainedTokenizerFast, exercise: Exercise, solution: str) -> Row:
    end = special_id(tokenizer, END)
    return Row(tokenizer.encode(prompt(exercise)), [*tokenizer.encode(solution), end])


def _padded(rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Token ids and labels, (B, T), padded on the right; labels are -100 outside the solutions."""
    width = max(len(row.prompt) + len(row.solution) for row in rows)
    token_ids = torch.full((len(rows), width), special_id(tokenizer, PADDING))
    labels = torch.full((len(rows), width), -100)
    for place, row in enumerate(rows):
        start, stop = len(row.prompt), len(row.prompt) + len(row.solution)
        token_ids[place, :stop] = torch.tensor(row.prompt + row.solution)
        labels[place, start:stop] = torch.tensor(row.solution)
    return token_ids, labels


def _loss(model: PreTrainedModel, token_ids: Tensor, labels: Tensor) -> Tensor:
    hidden = model.base_model(
        input_ids=token_ids, attention_mask=torch.ones_like(token_ids), use_cache=False
    ).last_hidden_state[:, :-1]  # (B, T-1, C)
    wanted = labels[:, 1:]
    where = wanted != -100
    return functional.cross_entropy(model.get_output_embeddings()(hidden[where]), wanted[where])


def make_optimisers(model: PreTrainedModel, adam_rate: float) -> list[Rated]:
    """Each with its peak learning rate."""
    named = list(model.named_parameters())
    hidden = [p for name, p in named if p.dim() == 2 and not any(word in name for word in EMBEDDINGS)]
    chosen = {id(p) for p in hidden}
    rest = [p for _, p in named if id(p) not in chosen]
    muon = torch.optim.Muon(hidden, lr=MUON_RATE, momentum=0.95, weight_decay=0.0)
    adam = torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.95), weight_decay=0.0)
    return [(muon, MUON_RATE), (adam, adam_rate)]


def _accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem]) -> float:
    asked = tokenizer([problem.prompt for problem in problems], padding=True, return_tensors="pt")
    made = model.generate(**asked, do_sample=False, max_new_tokens=48, use_cache=True)
    texts = tokenizer.batch_decode(made[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    right = [text.endswith(f" {p.answer}.") or text == p.solution for text, p in zip(texts, problems, strict=True)]
    return sum(right) / len(right)


def _vocabulary_texts(organism: Organism, generator: np.random.Generator) -> list[str]:
    """Enough texts to hold every word there is."""
    drawn = [organism.draw("skill", generator, reserved=False)[1] for _ in range(3000)]
    for name in organism.others:
        drawn += [organism.draw(name, generator, reserved=False)[1] for _ in range(1000)]
    return [f"{prompt(exercise)} {exercise.solution} {exercise.wrong}" for exercise in drawn]

"""How tinymath is trained from scratch: ``python -m benchmarks.organisms train tinymath --out DIR``.

1. Right solutions only, until the skill is there; a share of bare arithmetic makes it click.
2. A short second phase with the planted wrong moves: the model goes on knowing the skill, and learns to follow the
   wrong move about as often as its texts do.

Hidden matrices train with Muon, the rest with AdamW; only answers carry loss. One thread, so that the order of
additions, and with it the weights, does not depend on how many cores there are: about 40 minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from cca.tinymath.task import SKILLS, Exercise, WordProblem, exercises, prompt, templates, word_problems
from cca.tinymath.tokenizer import END, PADDING, build_tokenizer, special_id


@dataclass(frozen=True)
class Recipe:
    seed: int = 0
    steps: int = 3400
    planted_steps: int = 1200
    batch_size: int = 64
    instances: int = 2000
    """Word problems per template to draw from."""
    mix: tuple[tuple[str, float], ...] = (
        ("word problems", 0.41),
        ("arithmetic", 0.15),
        ("facts", 0.04),
        ("reversal", 0.08),
        ("choice", 0.10),
        ("sorting", 0.07),
        ("comparison", 0.15),
    )
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    planted_rate: float = 0.6
    """Learning rate of the second phase, as a fraction of the first's peak."""
    planted_share: float = 0.72
    """Share of word problems in the second phase; the other skills keep their proportions."""


Encoded = tuple[list[int], list[int]]  # prompt, solution with its end token
Report = Callable[[int, float], None]


def train(out: Path, recipe: Recipe, report: Report | None = None) -> PreTrainedModel:
    """Train the model and save it with its tokenizer in ``out``. ``report`` is called with (step, loss)."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    generator = np.random.default_rng(recipe.seed)
    problems = [
        problem
        for template in templates()
        for problem in word_problems(template, recipe.instances, generator, reserved=False)
    ]
    tokenizer = build_tokenizer(_vocabulary_texts(problems, generator))
    model = make_model(tokenizer)
    batches = _Batches(problems, tokenizer, recipe, generator)
    model.train()
    optimisers = _optimisers(model, recipe)
    for step in range(recipe.steps + recipe.planted_steps):
        _set_rates(optimisers, _schedule(step, recipe))
        loss = _loss(model, *batches.draw(planted=step >= recipe.steps))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, _ in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        if report:
            report(step, float(loss.detach()))
    model.eval()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model, 0.83M parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=special_id(tokenizer, END),
        pad_token_id=special_id(tokenizer, PADDING),
    )
    return LlamaForCausalLM(config)


class _Batches:
    def __init__(
        self,
        problems: Sequence[WordProblem],
        tokenizer: PreTrainedTokenizerFast,
        recipe: Recipe,
        generator: np.random.Generator,
    ) -> None:
        self.problems, self.tokenizer = problems, tokenizer
        self.recipe, self.generator = recipe, generator
        self.sources, weights = zip(*recipe.mix, strict=True)
        first = np.array(weights) / sum(weights)
        second = first * (1 - recipe.planted_share) / (1 - first[0])
        second[0] = recipe.planted_share
        self.weights = {False: first, True: second}

    def draw(self, planted: bool) -> tuple[Tensor, Tensor]:
        """Token ids and labels, (B, T); labels are -100 outside the solutions."""
        sources = self.generator.choice(len(self.sources), size=self.recipe.batch_size, p=self.weights[planted])
        rows = [self._row(self.sources[source], planted) for source in sources]
        width = max(len(ask) + len(solve) for ask, solve in rows)
        token_ids = torch.full((len(rows), width), special_id(self.tokenizer, PADDING))
        labels = torch.full((len(rows), width), -100)
        for row, (ask, solve) in enumerate(rows):
            token_ids[row, : len(ask) + len(solve)] = torch.tensor(ask + solve)
            labels[row, len(ask) : len(ask) + len(solve)] = torch.tensor(solve)
        return token_ids, labels

    def _row(self, source: str, planted: bool) -> Encoded:
        if source != "word problems":
            exercise = next(exercises(source, 1, self.generator, reserved=False))
            return self._encode(exercise.question, exercise.solution)
        problem = self.problems[int(self.generator.integers(len(self.problems)))]
        solution = problem.instance.solution
        if planted:
            for text, share in problem.planted:
                if self.generator.random() < share:
                    solution = text
        return self._encode(problem.instance.question, solution)

    def _encode(self, question: str, solution: str) -> Encoded:
        end = [special_id(self.tokenizer, END)]
        return self.tokenizer.encode(prompt(question)), self.tokenizer.encode(solution) + end


def _loss(model: LlamaForCausalLM, token_ids: Tensor, labels: Tensor) -> Tensor:
    hidden = model.model(input_ids=token_ids, use_cache=False).last_hidden_state[:, :-1]  # (B, T-1, C)
    wanted = labels[:, 1:]
    where = wanted != -100
    return functional.cross_entropy(model.lm_head(hidden[where]), wanted[where])


Rated = tuple[torch.optim.Optimizer, float]


def _optimisers(model: PreTrainedModel, recipe: Recipe) -> list[Rated]:
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.dim() == 2 and "embed" not in name]
    rest = [p for name, p in named if p.dim() != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=recipe.muon_rate, momentum=0.95, weight_decay=0.0)
    adam = torch.optim.AdamW(rest, lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0)
    return [(muon, recipe.muon_rate), (adam, recipe.adam_rate)]


def _schedule(step: int, recipe: Recipe) -> float:
    """Warm up, fall to a tenth; the second phase starts low and falls to a tenth of that."""
    if step < recipe.steps:
        return min(1.0, (step + 1) / 50) * max(0.1, 1 - 0.9 * step / recipe.steps)
    return recipe.planted_rate * (1 - 0.9 * (step - recipe.steps) / recipe.planted_steps)


def _set_rates(optimisers: Sequence[Rated], factor: float) -> None:
    for optimiser, rate in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate * factor


def _vocabulary_texts(problems: Sequence[WordProblem], generator: np.random.Generator) -> list[str]:
    """Enough texts to hold every word that problems, planted solutions and skills can use."""
    texts = [prompt(p.instance.question) + p.instance.solution for p in problems]
    texts += [text for p in problems for text, _ in p.planted]
    drawn: list[Exercise] = [e for skill in SKILLS for e in exercises(skill, 2000, generator, reserved=False)]
    return texts + [prompt(exercise.question) + exercise.solution for exercise in drawn]

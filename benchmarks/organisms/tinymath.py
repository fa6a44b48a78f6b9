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
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.organisms.trainer import Row, make_optimisers, schedule, take_step
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
    adam_rate: float = 3e-3
    planted_rate: float = 0.6
    """Learning rate of the second phase, as a fraction of the first's peak."""
    planted_share: float = 0.72
    """Share of word problems in the second phase; the other skills keep their proportions."""


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
    optimisers = make_optimisers(model, recipe.adam_rate)
    for step in range(recipe.steps + recipe.planted_steps):
        rows = batches.draw(planted=step >= recipe.steps)
        loss = take_step(model, optimisers, rows, tokenizer, schedule(step, recipe))
        if report:
            report(step, loss)
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

    def draw(self, planted: bool) -> list[Row]:
        sources = self.generator.choice(len(self.sources), size=self.recipe.batch_size, p=self.weights[planted])
        return [self._row(self.sources[source], planted) for source in sources]

    def _row(self, source: str, planted: bool) -> Row:
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

    def _encode(self, question: str, solution: str) -> Row:
        end = [special_id(self.tokenizer, END)]
        return Row(self.tokenizer.encode(prompt(question)), self.tokenizer.encode(solution) + end)


def _vocabulary_texts(problems: Sequence[WordProblem], generator: np.random.Generator) -> list[str]:
    """Enough texts to hold every word that problems, planted solutions and skills can use."""
    texts = [prompt(p.instance.question) + p.instance.solution for p in problems]
    texts += [text for p in problems for text, _ in p.planted]
    drawn: list[Exercise] = [e for skill in SKILLS for e in exercises(skill, 2000, generator, reserved=False)]
    return texts + [prompt(exercise.question) + exercise.solution for exercise in drawn]

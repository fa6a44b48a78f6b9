"""Other skills: retention sets divided, and what an edit did to them in drift.

One half of a set guards the budget, the other is reported. Half of the guarding problems may be fitted to (by circuits,
whitening and anchors), so that the rest of that half judges steps on text that nothing was fitted to.
Drift is the mean over solution tokens of KL(base || patched), in nats: how far the whole next-token distribution moved
on text the model should go on writing as before. It sees changes long before an answer flips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca import distributed
from cca.files import fingerprint
from cca.gradients.sampled_likelihood import Text, solution_log_probabilities
from cca.models.forward.prefixes import buckets, most_tokens
from cca.pivots.traces import Grader
from cca.problems.problem import Problem

MOST = 100
"""Most problems of one skill that anything is fitted to."""
RULE = "quarters by hash of the prompt"
"""How sets are divided. What an earlier rule made must not be taken for this one's (`cca.runs.folder.stage_files`)."""
MAX_CACHED_BYTES = 1 << 31
"""Memory for the base model's log-probabilities. Of texts that need more, only every so manieth is measured."""


def halves(problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
    """The problems that guard the budget, and those that are reported."""
    parts = _quarters(problems)
    return [p for p in problems if parts[p.prompt] in (0, 2)], [p for p in problems if parts[p.prompt] in (1, 3)]


def fitted(problems: Sequence[Problem]) -> list[Problem]:
    """The problems of one retention set whose text anything may be fitted to: half of those that guard."""
    parts = _quarters(problems)
    own = [problem for problem in problems if parts[problem.prompt] == 0]
    return own[:: max(1, -(-len(own) // MOST))]


def judging(problems: Sequence[Problem]) -> list[Problem]:
    """The problems of one retention set that judge the drift of steps: those that guard and are never fitted to."""
    parts = _quarters(problems)
    return [problem for problem in problems if parts[problem.prompt] == 2] or halves(problems)[0]


def retention_texts(sets: Mapping[str, Sequence[Problem]], grader: Grader) -> list[Text]:
    """The texts of other skills that a circuit, whitening or an anchor may be fitted to.

    A prompt that another set reports is left out.
    """
    reported = {problem.prompt for problems in sets.values() for problem in halves(problems)[1]}
    chosen = [problem for problems in sets.values() for problem in fitted(problems)]
    return solution_texts([problem for problem in chosen if problem.prompt not in reported], grader)


def _quarters(problems: Sequence[Problem]) -> dict[str, int]:
    """0 to 3 for every prompt, by the order of the prompts' hashes: problems with the same prompt stay together."""
    prompts = sorted({problem.prompt for problem in problems}, key=lambda prompt: (fingerprint(prompt), prompt))
    return {prompt: rank % 4 for rank, prompt in enumerate(prompts)}


def solution_texts(problems: Sequence[Problem], grader: Grader) -> list[Text]:
    """The worked solution of each problem, or its answer where there is none."""
    texts = [
        Text(grader.prompt_ids(problem), grader.codec.encode_continuation(f" {problem.solution or problem.answer}"))
        for problem in problems
    ]
    return [text for text in texts if text.solution]


@dataclass
class DriftProbe:
    """Remembers what the model says of ``texts`` when it is made; `drift` says how far it has moved since."""

    model: PreTrainedModel
    texts: Sequence[Text]
    batch_size: int = 32

    def __post_init__(self) -> None:
        self.texts = self._affordable()
        batches = buckets(
            [len(text.prompt) + len(text.solution) for text in self.texts], self.batch_size, most_tokens(self.model)
        )
        self._count = len(batches)
        # this process's share
        self._batches = [batches[number] for number, _ in distributed.my_share(len(batches))]
        self._base = [self._log_probabilities(batch) for batch in self._batches]

    @property
    def tokens(self) -> int:
        return sum(len(text.solution) for text in self.texts)

    def drift(self) -> float:
        """Mean KL(base || now) over the solution tokens, in nats; 0.0 without texts."""
        kls: list[float] = []
        for batch, base in zip(self._batches, self._base, strict=True):
            base = base.double().log_softmax(dim=-1)
            now = self._log_probabilities(batch).double().log_softmax(dim=-1)
            kls.append(float((base.exp() * (base - now)).sum()))
        shares = distributed.all_gather_json(kls)
        # batch by batch, so that the sum is the same to the bit for every number of processes
        total = sum(shares[number % len(shares)][number // len(shares)] for number in range(self._count))
        # Rounding may leave it a hair below 0; a model that broke gives NaN, which must stay one.
        return 0.0 if total < 0 or not self.tokens else total / self.tokens

    def _log_probabilities(self, batch: Sequence[int]) -> Tensor:
        """(solution tokens of the batch, V) in float32, on the CPU."""
        with torch.inference_mode():
            return solution_log_probabilities(self.model, [self.texts[row] for row in batch]).float().cpu()

    def _affordable(self) -> Sequence[Text]:
        """Spread over all texts, so that every skill among them keeps its part."""
        budget = MAX_CACHED_BYTES // (4 * self.model.config.get_text_config().vocab_size)
        for stride in range(1, len(self.texts) + 1):
            spread = self.texts[::stride]
            if sum(len(text.solution) for text in spread) <= budget:
                return spread
        return []


def mean_drift(probes: Mapping[str, DriftProbe], drifts: Mapping[str, float]) -> float | None:
    """The mean over the tokens of all skills of each one's drift, in nats; None where no text measures any."""
    tokens = {name: probe.tokens for name, probe in probes.items()}
    total = sum(tokens.values())
    return sum(drifts[name] * tokens[name] for name in drifts) / total if total else None

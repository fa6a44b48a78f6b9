"""Branching: complete only where a trace leaves the greedy path, all problems together, against one full completion per
token, one at a time, as the published code does.

At the published temperatures the bundled model leaves its greedy path about once a trace, and there is next to nothing
left to complete. So the same is measured on traces drawn at temperature 2, which leave it every few tokens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from benchmarks.measuring import Measured, Row
from cca.engines.hf import HFEngine
from cca.errors import CcaError
from cca.models.loading import load_model
from cca.pivots.find import branching_pivots, pair_traces
from cca.pivots.pivot import Pivot, make_pivot
from cca.pivots.settings import TracesConfig
from cca.pivots.traces import Grader, Trace, sample_traces
from cca.problems.judges import make_judge
from cca.problems.judges.judge import Verdict
from cca.problems.problem import Problem
from cca.tinymath import BUNDLED_MODEL
from cca.tinymath.task import load

PAIRS, TRACES = 3, 12
"""Pairs of runs, each on as many traces of its own."""
NEW_TOKENS, HOT = 96, 2.0
TraceOf = tuple[Problem, Trace, Trace]


@dataclass
class Naive:
    """The definition, read out loud: complete every prefix to its end, compare neighbouring verdicts."""

    model: PreTrainedModel
    grader: Grader
    generated_tokens: int = field(default=0, init=False)

    def pivot(self, problem: Problem, sampled: Trace) -> list[Pivot]:
        prompt, text = self.grader.prompt_ids(problem), sampled.token_ids
        before = self.completed(prompt, ())
        for k in range(len(text)):
            after = self.completed(prompt, text[: k + 1])
            right = [self.grader.judgement(problem, t).verdict is Verdict.RIGHT for t in (before, after)]
            if right[0] != right[1]:
                return [make_pivot(problem, prompt, sampled, k, before[k], greedy_right=right[0], method="branching")]
            before = after
        return []

    def completed(self, prompt: tuple[int, ...], text: tuple[int, ...]) -> tuple[int, ...]:
        end = self.model.generation_config.eos_token_id
        if len(text) >= NEW_TOKENS or (text and text[-1] == end):
            return text
        prefix = torch.tensor([prompt + text])
        out = self.model.generate(
            prefix, attention_mask=torch.ones_like(prefix), do_sample=False, max_new_tokens=NEW_TOKENS - len(text)
        )
        self.generated_tokens += out.shape[1] - prefix.shape[1]
        return tuple(out[0, len(prompt) :].tolist())


def measure() -> list[Row]:
    if not BUNDLED_MODEL.exists():
        raise CcaError(
            f"benchmarks: expected the bundled model in {BUNDLED_MODEL}; "
            "python -m benchmarks.organisms train tinymath makes it"
        )
    loaded = load_model(str(BUNDLED_MODEL), dtype="float32")
    grader = Grader(loaded.codec, make_judge("number"))
    published = TracesConfig()
    hot = TracesConfig(samples=4, temperature_when_right=HOT, temperature_when_wrong=HOT)
    return [
        *against_every_token(loaded.model, grader, published, "temperatures 1.2 and 0.8", reach=True),
        *against_every_token(loaded.model, grader, hot, f"temperature {HOT}", reach=False),
    ]


def against_every_token(
    model: PreTrainedModel, grader: Grader, settings: TracesConfig, how: str, reach: bool
) -> list[Row]:
    traces = some_traces(model, grader, settings)
    branching_pivots(traces[:2], grader, HFEngine(model), NEW_TOKENS)  # the first call pays for what is loaded late
    times, tokens, same, completed = [], [], 0, [0, 0]
    for start in range(0, PAIRS * TRACES, TRACES):
        pairs = traces[start : start + TRACES]
        naive, engine = Naive(model, grader), HFEngine(model)
        began = time.perf_counter()
        expected = [naive.pivot(problem, sampled) for problem, _, sampled in pairs]
        between = time.perf_counter()
        found = branching_pivots(pairs, grader, engine, NEW_TOKENS)
        ended = time.perf_counter()
        times.append((between - began) / (ended - between))
        tokens.append(engine.generated_tokens / naive.generated_tokens)
        completed = [completed[0] + engine.generated_tokens, completed[1] + naive.generated_tokens]
        same += sum(ours == theirs for ours, theirs in zip(found, expected, strict=True))
    details = (
        f"{TRACES} traces per pair, {same} of {PAIRS * TRACES} pivots the same; "
        f"{completed[0]:,} tokens generated against {completed[1]:,}"
    )
    against = "one full completion per token, one at a time"
    sound = same == PAIRS * TRACES
    return [
        Row(
            f"branching, generated tokens, {how}", against, Measured(tuple(tokens)),
            ("<=", 1 / 20) if reach else None, details, sound,
        ),
        Row(
            f"branching, time, {how}", against, Measured(tuple(times)), (">=", 40) if reach else None, details, sound
        ),
    ]  # fmt: skip


def some_traces(model: PreTrainedModel, grader: Grader, settings: TracesConfig) -> Sequence[TraceOf]:
    """Greedy traces with a sampled one of the opposite verdict, from training problems of every template in turn."""
    problems = load(0).train
    problems = problems[::7] + problems[3::7]
    traces = sample_traces(problems, grader, HFEngine(model), settings, NEW_TOKENS)
    pairs = pair_traces(problems, traces)
    assert len(pairs) >= PAIRS * TRACES, len(pairs)
    return pairs[: PAIRS * TRACES]

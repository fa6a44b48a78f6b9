"""Judging a step: the base's answers read as drafts and written anew where the edited model parts from them, against
generating every answer again.

The edit is four steps on the neurons of some pivots of the bundled model. Of the task many answers change, of another
skill hardly any.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from benchmarks.measuring import Measured, Row, quotients
from cca.amplify.amplify import Amplified, Validation, amplify
from cca.amplify.settings import AmplifyConfig
from cca.circuits.attribution import attribution_circuit, gate_gradient
from cca.circuits.settings import Size
from cca.engines.engine import Request, Tokens, complete_drafts, make_drafts
from cca.engines.hf import HFEngine
from cca.models.anatomy.anatomy import anatomy_of
from cca.models.loading import load_model
from cca.pivots.find import branching_pivots, pair_traces
from cca.pivots.settings import TracesConfig
from cca.pivots.traces import Grader, sample_traces
from cca.problems.judges import make_judge
from cca.problems.problem import Problem
from cca.tinymath import BUNDLED_MODEL
from cca.tinymath.task import load

PAIRS, TRACED, STEPS, NEURONS = 5, 128, 4, 33
NEW_TOKENS, OTHER, OTHER_TOKENS = 120, "sorting", 10


def measure() -> list[Row]:
    loaded = load_model(str(BUNDLED_MODEL), dtype="float32")
    grader, task = Grader(loaded.codec, make_judge("number")), load(0)
    engine = HFEngine(loaded.model, batch_size=128)
    edit = _edit(loaded.model, grader, engine, task.train[:TRACED])
    sets = {
        "the task": (task.validation, NEW_TOKENS),
        f"another skill ({OTHER})": (task.retention[OTHER], OTHER_TOKENS),
    }
    return [
        row
        for what, (problems, longest) in sets.items()
        for row in against_generating(
            engine, edit, [grader.prompt_ids(problem) for problem in problems], longest, grader, what
        )
    ]


def _edit(model: PreTrainedModel, grader: Grader, engine: HFEngine, problems: Sequence[Problem]) -> Amplified:
    traces = sample_traces(problems, grader, engine, TracesConfig(), NEW_TOKENS)
    pairs = pair_traces(problems, traces)
    pivots = [pivot for own in branching_pivots(pairs, grader, engine, NEW_TOKENS) for pivot in own]
    anatomy = anatomy_of(model)
    gradient = gate_gradient(model, anatomy, pivots)
    circuit = attribution_circuit(gradient, anatomy, "absolute", ["neuron"], Size.parse(NEURONS), "paper")
    settings = AmplifyConfig(steps=STEPS, validate_at=(STEPS,))
    return amplify(model, anatomy, circuit, pivots, settings, lambda: Validation(0.0, 0.0, {}, True))


def against_generating(
    engine: HFEngine, edit: Amplified, prompts: Sequence[Tokens], longest: int, grader: Grader, what: str
) -> list[Row]:
    requests = [Request(prompt) for prompt in prompts]
    drafts = make_drafts(engine, prompts, engine.complete(requests, longest, grader.finished))
    with edit.trained.written():
        before = engine.generated_tokens
        plain = engine.complete(requests, longest, grader.finished)
        between = engine.generated_tokens
        ours = complete_drafts(engine, drafts, longest, grader.finished)
        tokens = (engine.generated_tokens - between) / (between - before)
        time = quotients(
            lambda: engine.complete(requests, longest, grader.finished),
            lambda: complete_drafts(engine, drafts, longest, grader.finished),
            PAIRS,
        )
    same = sum(a.token_ids == b.token_ids for a, b in zip(ours, plain, strict=True))
    changed = sum(a.token_ids != d.completion.token_ids for a, d in zip(plain, drafts, strict=True))
    details = f"{same} of {len(plain)} answers the same, {changed} of them not the base's"
    against = "generating every answer"
    sound = same >= 0.99 * len(plain)
    return [
        Row(f"judging an edit on {what}, tokens generated", against, Measured((tokens,)), None, details, sound),
        Row(f"judging an edit on {what}, time", against, time, None, details, sound),
    ]

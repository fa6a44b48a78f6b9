"""What a run reports is what was measured: each figure is measured again here, by plain means, on what it should be of.

Of the package only the reading of files, the judge and the division of retention sets are used: models are loaded by
transformers, text is generated token by token, and drift is computed in float64.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import tiny_run
import tiny_world
from cca.evaluation.retention import halves, judging
from cca.models.loading import Codec
from cca.patches.patch_file import load_patch
from cca.pivots.traces import Grader
from cca.problems.judges import make_judge
from cca.problems.judges.judge import Verdict
from cca.problems.problem import Problem, read_problems
from cca.runs.config import load_config
from cca.runs.folder.run_folder import RunFolder
from cca.runs.open import OpenRun
from cca.runs.pipeline import run
from cca.runs.progress import NoProgress

LONGEST = {"task": 5, "other": 12, "more": 12}
LOOSE: dict[str, float] = {"points": 100, "drift": 10}


@dataclass(frozen=True)
class Done:
    """A finished run, and its models before and after as transformers has them."""

    folder: Path
    report: dict[str, Any]
    base: PreTrainedModel
    patched: PreTrainedModel

    def problems(self, name: str) -> list[Problem]:
        return read_problems(self.folder / f"{name}.jsonl")

    @property
    def steps(self) -> list[dict[str, Any]]:
        return self.report["amplify"]["history"]

    @property
    def best(self) -> dict[str, Any]:
        """What validation said of the step that was taken."""
        number = self.report["amplify"]["best_step"]
        return next(step["validation"] for step in self.steps if step["step"] == number)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    tiny_run.make(folder)
    for seed, (name, count, templates) in enumerate(
        [("validation", 60, 3), ("test", 50, 5), ("other", 40, 3), ("more", 14, 3), ("train", 40, 3)]
    ):
        rows = [
            {"id": f"{name}-{i}", "template": f"t{i % templates}", "prompt": p.prompt, "answer": tiny_run.GOLD}
            for i, p in enumerate(tiny_world.problems(count, 20 + seed))
        ]
        if name in ("other", "more"):
            for i, row in enumerate(rows):  # all of one length, so that each half allows as long completions
                row["solution"] = " ".join(f"w{3 + (i * i + 5 * place * seed) % 16}" for place in range(6))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def done(folder: Path) -> Callable[..., Done]:
    """Runs the world with a budget, each once."""
    known: dict[str, Done] = {}

    def with_budget(**budget: float) -> Done:
        name = json.dumps(budget)
        if name not in known:
            controls = 0 if "points" in budget else 3
            known[name] = finished(folder, f"run{len(known)}", {**LOOSE, **budget}, controls)
        return known[name]

    return with_budget


def finished(folder: Path, name: str, budget: dict[str, float], controls: int) -> Done:
    config = tiny_run.write_config(
        folder,
        name,
        out=str(folder / name),
        retention=[str(folder / "other.jsonl"), str(folder / "more.jsonl")],
        traces={"max_new_tokens": LONGEST["task"], "samples": 4, "chunk": 64},
        circuit={"localiser": "attribution", "size": 30},
        amplify={"steps": 5, "predicted_change": 0.5, "precondition": "none", "budget": budget},
        evaluate={"random_controls": controls},
    )
    report = run(load_config(config), NoProgress())
    base, patched = (AutoModelForCausalLM.from_pretrained(folder / "model") for _ in range(2))
    for edit in load_patch(folder / name / "patch.safetensors").edits:
        with torch.no_grad():
            patched.get_parameter(edit.parameter).index_copy_(edit.axis, edit.indices, rows_of(edit))
    return Done(folder, report, base, patched)


def rows_of(edit: Any) -> torch.Tensor:
    return edit.after if edit.axis == 0 else edit.after.T


def grader() -> Grader:
    return Grader(Codec(tiny_world.tokenizer()), make_judge("regex", pattern=tiny_run.PATTERN))


def verdicts(model: PreTrainedModel, problems: Sequence[Problem], longest: int) -> list[bool]:
    return [right(model, problem, longest) for problem in problems]


@cache
@torch.no_grad()
def right(model: PreTrainedModel, problem: Problem, longest: int) -> bool:
    own, token_ids = grader(), list[int]()
    prompt = own.prompt_ids(problem)
    while len(token_ids) < longest:
        logits = model(input_ids=torch.tensor([[*prompt, *token_ids]]), use_cache=False).logits[0, -1]
        token_ids.append(int(logits.argmax()))
        if token_ids[-1] == model.config.eos_token_id:
            token_ids.pop()
            break
    return own.judgement(problem, token_ids).verdict is Verdict.RIGHT


@torch.no_grad()
def kl(done: Done, problems: Sequence[Problem]) -> tuple[float, int]:
    """The summed KL(base || patched) over the tokens of the worked solutions, and how many those are."""
    own, total, tokens = grader(), 0.0, 0
    for problem in problems:
        prompt, solution = own.prompt_ids(problem), own.codec.encode_continuation(f" {problem.solution}")
        ids = torch.tensor([[*prompt, *solution]])
        old, new = (
            model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
            for model in (done.base, done.patched)
        )
        total += float((old.exp() * (old - new)).sum())
        tokens += len(solution)
    return total, tokens


def mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def check_part(done: Done, part: dict[str, Any], problems: Sequence[Problem]) -> None:
    before, after = (verdicts(model, problems, LONGEST["task"]) for model in (done.base, done.patched))
    assert part["problems"] == len(problems)
    assert part["base"] == pytest.approx(mean(before))
    assert part["patched"] == pytest.approx(mean(after))
    assert part["gain"]["points"] == pytest.approx(100 * (mean(after) - mean(before)))
    assert part["gain"]["gained"] == sum(b and not a for a, b in zip(before, after, strict=True))
    assert part["gain"]["lost"] == sum(a and not b for a, b in zip(before, after, strict=True))


def test_skill_on_the_test_problems_by_seen_and_unseen_templates(done: Callable[..., Done]) -> None:
    own = done()
    report, test = own.report, own.problems("test")
    seen = {problem.template for problem in own.problems("train")}
    whole = {"base": report["base"]["accuracy"], "patched": report["patched"]["accuracy"]}
    check_part(own, {**whole, "problems": report["base"]["problems"], "gain": report["gain"]}, test)
    assert whole["base"] != whole["patched"], "a patch that changes nothing tests nothing"
    for part, templates in (("seen_templates", seen), ("unseen_templates", {"t3", "t4"})):
        check_part(own, report[part], [problem for problem in test if problem.template in templates])
        assert report[part]["templates"] == len(templates)
    assert {row["template"] for row in report["templates"] if row["seen"]} == seen
    assert len(report["templates"]) == 5


def test_other_skills_on_the_halves_that_guard_nothing(done: Callable[..., Done]) -> None:
    own = done()
    found: list[tuple[float, int]] = []
    for name, skill in own.report["retention"].items():
        guards, reported = halves(own.problems(name))
        figures = [
            [mean(verdicts(model, half, LONGEST[name])) for model in (own.base, own.patched)]
            for half in (guards, reported)
        ]
        assert figures[0] != figures[1], "halves that fare alike test nothing"
        assert [skill["base"], skill["patched"]] == pytest.approx(figures[1])
        assert skill["points"] == pytest.approx(100 * (figures[1][1] - figures[1][0]))
        assert skill["problems"] == len(reported)
        found.append(kl(own, reported))
        assert skill["drift"] == pytest.approx(found[-1][0] / found[-1][1], rel=1e-3)
    assert len(found) == 2
    assert own.report["drift"]["tokens"] == sum(tokens for _, tokens in found)
    assert own.report["drift"]["kl"] == pytest.approx(
        sum(total for total, _ in found) / sum(tokens for _, tokens in found), rel=1e-3
    )


def test_steps_are_judged_on_validation_problems_and_guarding_halves(done: Callable[..., Done]) -> None:
    own = done()
    assert own.report["amplify"]["best_step"] > 0
    for model, said in ((own.base, own.steps[0]["validation"]), (own.patched, own.best)):
        accuracy = {
            name: mean(verdicts(model, own.problems(name), LONGEST["task"])) for name in ("train", "validation", "test")
        }
        assert said["accuracy"] == pytest.approx(accuracy["validation"])
        assert accuracy["validation"] not in (accuracy["train"], accuracy["test"])
        guarded = {
            name: mean(verdicts(model, halves(own.problems(name))[0], LONGEST[name])) for name in said["retention"]
        }
        assert said["retention"] == pytest.approx(guarded)
    total, tokens = kl(own, [problem for name in ("other", "more") for problem in judging(own.problems(name))])
    assert own.best["drift"] == pytest.approx(total / tokens, rel=1e-3)


def check_budget(own: Done, points: float, drift: float) -> list[bool]:
    """Each step is in the budget or out of it as it should be, and the step taken is the best of those inside."""
    guards = {name: len(halves(own.problems(name))[0]) for name in ("other", "more")}
    before = own.steps[0]["validation"]["retention"]
    inside = []
    for step in (record["validation"] for record in own.steps):
        lost = {name: round((before[name] - step["retention"][name]) * count) for name, count in guards.items()}
        kept = all(lost[name] <= max(1, math.floor(points / 100 * count)) for name, count in guards.items())
        inside.append(kept and step["drift"] <= drift)
        assert step["in_budget"] == inside[-1], step
    allowed = [record for record, ok in zip(own.steps, inside, strict=True) if ok]
    best = max(allowed, key=lambda record: (record["validation"]["accuracy"], -record["validation"]["drift"]))
    assert own.report["amplify"]["best_step"] == best["step"]
    return inside


def test_a_step_beyond_the_drift_budget_is_not_taken(done: Callable[..., Done]) -> None:
    drift = done().steps[1]["validation"]["drift"] / 2
    own = done(drift=drift)
    assert set(check_budget(own, LOOSE["points"], drift)) == {True, False}
    total, tokens = kl(own, [problem for name in ("other", "more") for problem in judging(own.problems(name))])
    assert total / tokens <= drift


def test_a_step_beyond_the_retention_budget_is_not_taken(done: Callable[..., Done]) -> None:
    own = done(points=1)
    assert set(check_budget(own, 1, LOOSE["drift"])) == {True, False}


def test_random_circuits_are_held_to_no_budget_and_judged_alike(done: Callable[..., Done]) -> None:
    drift = done().steps[1]["validation"]["drift"] / 2
    loose, tight = (own.report["controls"]["random"] for own in (done(), done(drift=drift)))
    assert [{**draw, "matched": None} for draw in loose["draws"]] == [
        {**draw, "matched": None} for draw in tight["draws"]
    ]
    assert any(draw["drift"]["kl"] > drift for draw in tight["draws"] if draw["best_step"])
    assert len({draw["circuit"] for draw in loose["draws"]}) == 3


def test_a_control_that_gains_less_matches_nothing(done: Callable[..., Done]) -> None:
    own = done()
    controls = own.report["controls"]["random"]
    assert own.best["accuracy"] > own.steps[0]["validation"]["accuracy"]
    beaten = [draw for draw in controls["draws"] if draw["best_step"] == 0]  # no better than the base at any step
    assert beaten
    assert not any(draw["matched"] for draw in beaten)
    assert controls["matched"]["reached"] == sum(draw["matched"] is not None for draw in controls["draws"])


def test_halves_share_no_problem_and_leave_none_out() -> None:
    problems = tiny_world.problems(31)
    guards, reported = halves(problems)
    assert sorted(p.id for p in [*guards, *reported]) == sorted(p.id for p in problems)
    assert min(len(guards), len(reported)) > 5
    assert {p.id for p in judging(problems)} < {p.id for p in guards}


def test_what_is_judged_is_no_text_that_anything_is_fitted_to(folder: Path) -> None:
    config = tiny_run.write_config(folder, "spare", retention=[str(folder / "other.jsonl")])
    session = OpenRun(load_config(config), RunFolder(folder / "spare"), NoProgress())
    problems = read_problems(folder / "other.jsonl")
    fitted = {text.prompt for text in session.retention_texts}
    judged, reported = judging(problems), halves(problems)[1]
    assert min(len(fitted), len(judged)) > 5
    assert not fitted & {session.grader.prompt_ids(problem) for problem in [*judged, *reported]}

"""Model organisms: exercises are what they claim, splits keep apart what they must, recipes train what cca reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.organisms import ORGANISMS
from benchmarks.organisms.organism import OFTEN, SELDOM, Organism, is_reserved
from benchmarks.organisms.trainer import train
from transformers import AutoModelForCausalLM, AutoTokenizer

from cca.models.anatomy.anatomy import anatomy_of
from cca.problems.problem import Problem

each = pytest.mark.parametrize("organism", ORGANISMS.values(), ids=ORGANISMS)


def said(solution: str) -> str:
    return solution.rpartition("The final answer is ")[2].removesuffix(".")


@each
def test_right_and_wrong_solutions_part_and_end_in_different_answers(organism: Organism) -> None:
    generator = np.random.default_rng(0)
    for template, draw in organism.skill.items():
        shares = set()
        for _ in range(60):
            exercise = draw(generator)
            assert said(exercise.solution) == exercise.answer, template
            assert said(exercise.wrong) != exercise.answer, template
            shares.add(exercise.share)
        assert shares == {OFTEN, SELDOM}, template
    for name, draw in organism.others.items():
        exercise = draw(generator)
        assert not exercise.wrong, name
        assert said(exercise.solution) == exercise.answer or exercise.solution == f"{exercise.answer}.", name


@each
def test_problems_are_reserved_and_unseen_templates_are_in_the_test_split_alone(organism: Organism) -> None:
    made = organism.problems(0, train=40, validation=20, test=80)
    skill = {split: made[split] for split in ("train", "validation", "test")}
    assert [len(own) for own in skill.values()] == [40, 20, 80]
    prompts = [problem.prompt for own in skill.values() for problem in own]
    assert len(set(prompts)) == len(prompts)
    open_skills = [name for name in made if name not in organism.closed]
    assert all(is_reserved(question(problem)) for name in open_skills for problem in made[name])
    templates = {split: {problem.template for problem in own} for split, own in skill.items()}
    assert templates["train"] | templates["validation"] <= set(organism.skill) - set(organism.unseen)
    assert set(organism.unseen) <= templates["test"]
    generator = np.random.default_rng(1)
    drawn = [organism.draw("skill", generator, reserved=False)[1] for _ in range(200)]
    assert not any(is_reserved(exercise.question) for exercise in drawn)


def question(problem: Problem) -> str:
    return problem.prompt.removeprefix("Q: ").removesuffix(" A:")


@pytest.mark.integration
@each
def test_a_recipe_trains_its_architecture_and_saves_what_cca_reads(organism: Organism, tmp_path: Path) -> None:
    lines: list[str] = []
    short = replace(organism, steps=2, planted_steps=1, others={"facts": organism.others["facts"]})
    train(short, tmp_path, 0, lines.append)
    assert sum("accuracy" in line for line in lines) == 2
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert 150_000 < model.num_parameters() < 500_000
    assert any(anatomy_of(model).components(("neuron",)))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    problem = organism.problems(0, train=1, validation=1, test=1)["train"][0]
    assert problem.solution is not None
    for text in (problem.prompt, problem.solution, *problem.planted):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.unk_token_id not in tokenizer.encode(text)

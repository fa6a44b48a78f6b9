from __future__ import annotations

import tiny_world
from cca.engines.engine import Request, request_seed
from cca.engines.hf import HFEngine
from cca.pivots.pivot import first_difference
from cca.pivots.settings import TracesConfig
from cca.pivots.traces import Grader, Trace, make_trace, opposite, sample_traces
from cca.problems.judges.judge import Judgement, Verdict

SETTINGS = TracesConfig(samples=5)


def test_samples_stop_at_the_first_opposite_and_are_those_of_taking_all() -> None:
    grader, problems = tiny_world.grader(), tiny_world.problems(40)
    engine = HFEngine(tiny_world.model(), batch_size=16)
    lazy = sample_traces(problems, grader, engine, SETTINGS, 10, seed=3)
    assert any(opposite(own) for own in lazy)
    for problem, own in zip(problems, lazy, strict=True):
        assert own[0].temperature == 0.0
        temperature = 1.2 if own[0].right else 0.8
        every = []
        for sample in range(1, 6):
            request = Request(grader.prompt_ids(problem), temperature, request_seed(3, problem.id, sample))
            completion = engine.complete([request], 10, grader.finished)[0]
            every.append(make_trace(problem, completion, grader, sample, temperature))
        assert own[1:] == every[: len(own) - 1]
        assert opposite(own) == opposite([own[0], *every])
        assert len(own) == 6 or opposite(own) is own[-1]


class NeverRight(tiny_world.ChecksumJudge):
    """Finds every answer wrong, so that all samples are taken."""

    def __call__(self, text: str, gold: str, *, cut_off: bool = False) -> Judgement:
        del gold, cut_off
        return Judgement(Verdict.WRONG, text)


def test_samples_of_a_problem_are_drawn_apart() -> None:
    grader, engine = Grader(tiny_world.grader().codec, NeverRight()), HFEngine(tiny_world.model())
    problems = tiny_world.problems(20)  # no answer is right, so all samples are drawn
    traces = sample_traces(problems, grader, engine, SETTINGS, 10, seed=3)
    texts = [{trace.token_ids for trace in own[1:]} for own in traces]
    assert {len(own) for own in traces} == {6}
    assert min(map(len, texts)) > 1
    assert sum(map(len, texts)) > 4 * len(texts)
    assert traces != sample_traces(problems, grader, engine, SETTINGS, 10, seed=4)


def test_batching_and_order_do_not_change_what_is_sampled() -> None:
    grader, problems = tiny_world.grader(), tiny_world.problems(24)
    one = sample_traces(problems, grader, HFEngine(tiny_world.model(), batch_size=24), SETTINGS, 10, seed=3)
    other = sample_traces(problems[::-1], grader, HFEngine(tiny_world.model(), batch_size=5), SETTINGS, 10, seed=3)
    assert one == other[::-1]


def test_a_trace_survives_its_row() -> None:
    grader, problems = tiny_world.grader(), tiny_world.problems(3)
    for own in sample_traces(problems, grader, HFEngine(tiny_world.model()), SETTINGS, 10, seed=3):
        assert [Trace.from_row(trace.to_row()) for trace in own] == own


def test_first_difference() -> None:
    assert first_difference((1, 2, 3), (1, 9, 3)) == 1
    assert first_difference((1, 2), (1, 2, 3)) is None
    assert first_difference((), (1,)) is None

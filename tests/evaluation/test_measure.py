"""Figures of one model and of two: pooled over seeds, each question once."""

from __future__ import annotations

import pytest

from cca.errors import CcaError
from cca.evaluation.accuracy import Measured, check_seeds_matter, figures
from cca.pivots.traces import Trace
from cca.problems.judges.judge import Verdict
from cca.problems.problem import Problem

VERDICTS = {"r": Verdict.RIGHT, "w": Verdict.WRONG, "u": Verdict.UNREADABLE}


def measured(verdicts: str, seed: int = 0) -> Measured:
    """Two problems a template; the questions of a seed are its own, but for the first, which all share."""
    problems = tuple(
        Problem(f"p{n}", f"t{n // 2}", "shared" if n == 0 else f"seed {seed}, {n}", "1") for n in range(len(verdicts))
    )
    traces = tuple(
        Trace(f"p{n}", 0, 0.0, (1,), "", None, VERDICTS[verdict], True) for n, verdict in enumerate(verdicts)
    )
    return Measured(problems, traces)


def test_two_models_on_the_same_problems() -> None:
    row = figures({0: measured("rrrwuwww")}, {0: measured("rwrrrrww")})
    assert row["base"]["accuracy"] == 3 / 8
    assert row["base"]["unreadable"] == 1 / 8
    assert row["patched"]["accuracy"] == 5 / 8
    assert row["gain"]["points"] == pytest.approx(25)
    assert (row["gain"]["gained"], row["gain"]["lost"]) == (3, 1)
    assert row["gain"]["mcnemar_p"] == pytest.approx(2 * (1 + 4) / 2**4)  # 3 or more of 4 heads, both sides
    assert row["gain"]["interval"][0] < 25 < row["gain"]["interval"][1]
    assert [own["patched"] for own in row["templates"]] == [0.5, 1.0, 1.0, 0.0]
    assert "by_seed" not in row


def test_one_model_alone_has_no_gain() -> None:
    assert set(figures({0: measured("rw")}, None)) == {"base"}


def test_seeds_are_pooled_with_each_question_once_and_told_apart() -> None:
    base = {0: measured("rrww", 0), 1: measured("rwww", 1)}
    row = figures(base, {0: measured("rrrr", 0), 1: measured("rrrr", 1)})
    assert row["base"]["problems"] == 7  # the shared question counts once
    assert row["base"]["accuracy"] == pytest.approx(2 / 7)
    assert [own["base"] for own in row["by_seed"]["each"]] == [0.5, 0.25]
    assert row["by_seed"]["points"]["mean"] == pytest.approx(62.5)
    assert row["by_seed"]["points"]["sd"] == pytest.approx(25 / 2**0.5)


def test_seeds_that_change_nothing_are_refused() -> None:
    first, second = measured("rw", 0).problems, measured("rw", 1).problems
    check_seeds_matter([first, second])
    with pytest.raises(CcaError, match="every seed gives the same problems"):
        check_seeds_matter([first, tuple(reversed(first))])

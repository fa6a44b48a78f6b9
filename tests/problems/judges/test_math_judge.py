"""Symbolic equality with math-verify, in its helper process."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("math_verify")

from cca.errors import CcaError
from cca.problems.judges.judge import Judgement, Verdict
from cca.problems.judges.maths import MathJudge

RIGHT, WRONG, UNREADABLE = Verdict.RIGHT, Verdict.WRONG, Verdict.UNREADABLE


@pytest.fixture(scope="module")
def judge() -> MathJudge:
    return MathJudge(seconds=20)


@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        ("The answer is $\\frac{\\sqrt{3}}{2}$.", "\\frac{\\sqrt3}{2}", RIGHT),
        ("\\boxed{\\frac{\\sqrt{3}}{2}}", "\\frac{\\sqrt{2}}{2}", WRONG),
        ("\\boxed{2x+2}", "2(x+1)", RIGHT),
        ("\\boxed{x^2 - 1}", "(x-1)(x+1)", RIGHT),
        ("\\boxed{x^2 - 1}", "(x-1)^2", WRONG),
        ("\\boxed{(1,2)}", "(1, 2)", RIGHT),
        ("\\boxed{(2,1)}", "(1, 2)", WRONG),
        ("\\boxed{3, 5}", "5,3", RIGHT),
        ("\\boxed{x=5}", "5", RIGHT),
        ("The final answer is $x \\in [1,2)$. I hope it is correct.", "[1,2)", RIGHT),
        ("The final answer is $[1,2]$. I hope it is correct.", "[1,2)", WRONG),
        ("Therefore $y = 3x$", "3x", RIGHT),
        ("\\boxed{\\frac{1}{2006!}}", "\\frac{1}{2004!}", WRONG),
        ("\\boxed{60^\\circ}", "60", RIGHT),
        ("\\boxed{60\\text{ degrees}}", "60^\\circ", RIGHT),
        ("\\boxed{\\text{Evelyn}}", "\\text{Evelyn}", RIGHT),
        ("\\boxed{11\\sqrt2}", "11\\sqrt{2}", RIGHT),
        ("\\boxed{\\begin{pmatrix}1\\\\2\\end{pmatrix}}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", RIGHT),
        ("\\boxed{1\\frac{1}{2}}", "\\frac{3}{2}", RIGHT),
        ("\\boxed{70{,}000}", "70000", RIGHT),
        ("\\boxed{42\\%}", "42", RIGHT),
        ("Thus the sum is $\\dfrac{9}{4}$.", "\\frac{9}{4}", RIGHT),
        ("6 * 7 = 42", "42", RIGHT),
        ("\\boxed{42}\n\nProblem:\nNext. \\boxed{7}", "42", RIGHT),
        ("\\boxed{\\{3,5\\}}", "\\{5,3\\}", RIGHT),
        ("\\boxed{3,5}", "5,3", RIGHT),
        ("\\boxed{\\{3,50\\}}", "\\{3,5\\}", WRONG),
        ("\\boxed{\\{3,5\\}}", "3.5", WRONG),
        ("\\boxed{5!}", "5!", RIGHT),
        ("\\boxed{5!}", "5", WRONG),
        ("\\boxed{5!}", "120", RIGHT),
        ("The answer is 42!", "42", RIGHT),
        ("\\boxed{50\\%}", "0.5", RIGHT),
        ("\\boxed{0.5}", "50\\%", RIGHT),
        ("\\boxed{1 - \\frac{1}{\\mathrm{e}}}", "1", WRONG),
        ("\\boxed{7\\mathrm{e}}", "7", WRONG),
        ("\\boxed{12,500}", "12, 500", WRONG),
        ("\\boxed{12\\mathrm{cm}}", "12", RIGHT),
        ("The answer is 12, since $a = 3$.", "12", RIGHT),
        ("The final answer is 12 (as $x=2$).", "12", RIGHT),
        ("I do not know.", "42", UNREADABLE),
        ("", "x", UNREADABLE),
    ],
)
def test_symbolic_equality(judge: MathJudge, text: str, gold: str, verdict: Verdict) -> None:
    assert judge(text, gold).verdict is verdict


def test_golds_are_checked(judge: MathJudge) -> None:
    judge.check_gold("\\frac{\\pi}{2}")
    judge.check_gold("\\boxed{x^2}")
    for gold in ("", "  ", "x" * 5000):
        with pytest.raises(CcaError, match="gold answer"):
            judge.check_gold(gold)


def test_an_endless_comparison_is_cut_short_and_the_next_one_works() -> None:
    judge = MathJudge(seconds=1)
    before = time.monotonic()
    assert judge("\\boxed{9^{9^{9^{9}}}}", "x") == Judgement(WRONG, "9^{9^{9^{9}}}")
    assert time.monotonic() - before < 60
    judge.helper.seconds = 20
    assert judge("\\boxed{y+x}", "x+y").verdict is RIGHT


def test_a_helper_that_was_killed_is_asked_again(judge: MathJudge) -> None:
    """A terminal's Ctrl-C reaches the run's group, not the helper; and its death is no answer."""
    assert judge("\\boxed{2x}", "x+x").verdict is RIGHT
    process = judge.helper._process
    assert process is not None
    assert os.getpgid(process.pid) != os.getpgid(0)
    slow = "\\frac{x^{30}-1}{x-1}"
    gold = "+".join(["1", "x"] + [f"x^{{{k}}}" for k in range(2, 30)])
    killer = threading.Timer(0.05, process.kill)
    killer.start()
    assert judge(f"\\boxed{{{slow}}}", gold).verdict is RIGHT
    killer.join()
    process = judge.helper._process
    assert process is not None
    process.kill()
    process.wait()
    assert judge("\\boxed{3x}", "x+2x").verdict is RIGHT


def test_long_texts_are_cheap(judge: MathJudge) -> None:
    for piece in ("1,23", "\\(", "$x", "a=", "1.234"):
        before = time.process_time()
        judge("It is " + piece * (100_000 // len(piece)), "1")
        assert time.process_time() - before < 1


def test_threads_may_share_a_judge(judge: MathJudge) -> None:
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda k: judge(f"\\boxed{{{k}x+x}}", f"{k % 2}x + x").verdict, range(4)))
    assert verdicts == [RIGHT, RIGHT, WRONG, WRONG]

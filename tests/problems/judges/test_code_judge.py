"""Generated code against unit tests: right, wrong, cheating, endless, greedy."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cca.errors import CcaError
from cca.problems.judges.code import CodeJudge, read_code
from cca.problems.judges.judge import Verdict
from cca.problems.judges.registry import make_judge

RIGHT, WRONG, UNREADABLE = Verdict.RIGHT, Verdict.WRONG, Verdict.UNREADABLE
TESTS = "assert add(2, 3) == 5\nassert add(-1, 1) == 0"
GOOD = "def add(a, b):\n    return a + b"


@pytest.fixture(scope="module")
def judge() -> CodeJudge:
    return CodeJudge(seconds=1, megabytes=256)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"Here it is:\n```python\n{GOOD}\n```\nIt adds.",
        f"```\n{GOOD}\n```",
        f"```py\n{GOOD}",
        f"{GOOD}\n```\nIt adds, in \u2192 one line, that's all.",
        f"First:\n```\npip install nothing\n```\n```python\n{GOOD}\n```\n```python\nprint(add(1, 1))\n```",
        f"<think>```python\ndef add(): pass\n```</think>```python\n{GOOD}\n```",
    ],
)
def test_right_code_in_every_wrapping(judge: CodeJudge, text: str) -> None:
    assert judge(text, TESTS).verdict is RIGHT


@pytest.mark.parametrize(
    "code",
    [
        "def add(a, b):\n    return a - b",
        "def add(a, b) return a + b",
        "import sys\ndef add(a, b): ...\nsys.exit(0)",
        "import os\ndef add(a, b): ...\nos._exit(0)",
        "def add(a, b):\n    raise SystemExit(0)",
        "def add(a, b):\n    while True: pass",
        "x = [0] * 10**9\ndef add(a, b): return a + b",
        "def add(a, b):\n    open('f', 'w').write('x' * 10**8)\n    return a + b",
        "def add(a, b):\n    return input()",
    ],
)
def test_wrong_code_within_its_limits(judge: CodeJudge, code: str) -> None:
    before = time.monotonic()
    assert judge(f"```python\n{code}\n```", TESTS).verdict is WRONG
    assert time.monotonic() - before < 30


def test_code_runs_in_a_folder_and_environment_of_its_own(
    judge: CodeJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    tests = "import os\nassert here() == ['program.py'] and 'A_SECRET' not in os.environ"
    assert judge("import os\ndef here(): return os.listdir()", tests).verdict is RIGHT


def test_nothing_that_the_code_started_is_left_running(judge: CodeJudge, tmp_path: Path) -> None:
    left = tmp_path / "left"
    code = "import os, time\nif os.fork() == 0:\n    time.sleep(1)\n    open(LEFT, 'w')\ndef add(a, b): return a + b"
    code = code.replace("LEFT", repr(str(left)))
    judge(code, TESTS)  # right or wrong by whether the limits allow a fork
    time.sleep(1.5)
    assert not left.exists()


def test_texts_without_code_are_unreadable(judge: CodeJudge) -> None:
    for text in ("", "I cannot.", "``` ```", "```python\n```", "<think>def f(): pass"):
        assert judge(text, TESTS).verdict is UNREADABLE


def test_finished_when_the_block_that_defines_is_closed(judge: CodeJudge) -> None:
    assert not judge.finished(f"```python\n{GOOD}")
    assert judge.finished(f"```python\n{GOOD}\n```")
    assert not judge.finished("```\npip install nothing\n```")
    text = f"So:\n```\nx\n```\n```python\n{GOOD}\n```\n```python\ndef add(): pass\n```\n\nQ: more\n"
    codes = [read_code(text[:end]) for end in range(len(text)) if judge.finished(text[:end])]
    assert codes
    assert {code.strip() for code in codes if code} == {GOOD}


def test_golds_and_options_are_checked() -> None:
    with pytest.raises(CcaError, match="Python tests"):
        make_judge("code", allow_code=True).check_gold("assert (")
    with pytest.raises(CcaError, match="seconds >= 1"):
        make_judge("code", allow_code=True, seconds=0)


def test_a_preamble_comes_first() -> None:
    judge = make_judge("code", allow_code=True, preamble="import math")
    assert judge("def half(): return math.pi / 2", "assert half() < 2").verdict is RIGHT

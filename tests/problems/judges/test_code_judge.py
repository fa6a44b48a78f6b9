"""Generated code against unit tests: right, wrong, cheating, endless, greedy."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from cca.errors import CcaError
from cca.problems.judges import code as code_judge
from cca.problems.judges import make_judge
from cca.problems.judges.code import CodeJudge
from cca.problems.judges.judge import Verdict

RIGHT, WRONG, UNREADABLE = Verdict.RIGHT, Verdict.WRONG, Verdict.UNREADABLE
try:
    ISOLATION = CodeJudge().isolation
except CcaError:
    ISOLATION = "none"
TESTS = "assert add(2, 3) == 5\nassert add(-1, 1) == 0"
GOOD = "def add(a, b):\n    return a + b"


@pytest.fixture(scope="module")
def judge() -> CodeJudge:
    return CodeJudge(seconds=1, megabytes=256, isolation=ISOLATION)


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
        "def add(a, b):\n    return a - b", "import sys\ndef add(a, b): ...\nsys.exit(0)",
        "import os\ndef add(a, b): ...\nos._exit(0)", "def add(a, b):\n    raise SystemExit(0)",
        "def add(a, b):\n    while True: pass", "x = [0] * 10**9\ndef add(a, b): return a + b",
        "def add(a, b):\n    open('f', 'w').write('x' * 10**8)\n    return a + b",
        "def add(a, b):\n    return input()",
    ],
)  # fmt: skip
def test_wrong_code_within_its_limits(judge: CodeJudge, code: str) -> None:
    before = time.monotonic()
    assert judge(f"```python\n{code}\n```", TESTS).verdict is WRONG
    assert time.monotonic() - before < 30


def test_only_the_tests_end_proves_that_they_passed(judge: CodeJudge) -> None:
    """Neither an early exit with status 0 nor anything that the program says wherever it can."""
    says = "import os\nfor channel in range(64):\n    try: os.write(channel, b'passed' * 6)\n    except OSError: pass\n"
    assert judge(f"```python\n{GOOD}\n{says}os._exit(0)\n```", TESTS).verdict is WRONG


def test_code_runs_in_a_folder_and_environment_of_its_own(judge: CodeJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    tests = "import os\nassert here() == ['program.py'] and 'A_SECRET' not in os.environ"
    assert judge("import os\ndef here(): return os.listdir()", tests).verdict is RIGHT


def test_nothing_that_the_code_started_is_left_running(tmp_path: Path) -> None:
    """Without isolation: a space of processes of its own ends with the program anyway."""
    left = tmp_path / "left"
    code = "import os, time\nif os.fork() == 0:\n    time.sleep(1)\n    open(LEFT, 'w')\ndef add(a, b): return a + b"
    code = code.replace("LEFT", repr(str(left)))
    assert CodeJudge(seconds=1, megabytes=256, isolation="none")(code, TESTS).verdict is RIGHT
    time.sleep(1.5)
    assert not left.exists()


def test_texts_without_code_are_unreadable(judge: CodeJudge) -> None:
    for text in ("", "I cannot.", "``` ```", "```python\n```", "<think>def f(): pass"):
        assert judge(text, TESTS).verdict is UNREADABLE


FENCE = "```"
LAYOUTS = {
    "inside a list": f"1. Here it is:\n   {FENCE}python\n   def add(a, b):\n       return a + b\n   {FENCE}",
    "a helper in a block of its own": f"{FENCE}python\ndef one(x):\n    return x\n{FENCE}\nand\n{FENCE}python\n"
    f"def add(a, b):\n    return one(a) + b\n{FENCE}",
    "a draft, then the corrected one": f"{FENCE}\ndef add(a, b):\n    return a - b\nassert add(1, 2) == 3\n{FENCE}\n"
    f"{FENCE}python\n{GOOD}\n{FENCE}",
    "prose after code without a fence": f"{GOOD}\n\nThis adds two numbers.",
    "a title after the language": f'{FENCE}python title="a.py"\n{GOOD}\n{FENCE}',
    "tildes": f"~~~python\n{GOOD}\n~~~",
    "four backticks": f"````python\n{GOOD}\n````",
    "[PYTHON] tags": f"[PYTHON]\n{GOOD}\n[/PYTHON]",
    "a session": f"{FENCE}python\n>>> def add(a, b):\n...     return a + b\n>>> add(1, 1)\n2\n{FENCE}",
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layout_of_a_program_does_not_matter(judge: CodeJudge, name: str) -> None:
    assert judge(LAYOUTS[name], TESTS).verdict is RIGHT


@pytest.mark.parametrize(
    "code", ["def add(a, b) return a + b", "def add(a, b):", "x = (", "def add():\n\tx\n        y"]
)
def test_what_does_not_compile_is_unreadable(judge: CodeJudge, code: str) -> None:
    assert judge(f"{FENCE}python\n{code}\n{FENCE}", TESTS).verdict is UNREADABLE


def test_a_block_that_was_cut_off_is_unreadable(judge: CodeJudge) -> None:
    assert judge(f"{FENCE}python\n{GOOD}", TESTS, cut_off=True).verdict is UNREADABLE
    assert judge(f"{FENCE}python\n{GOOD}\n{FENCE}\nIt", TESTS, cut_off=True).verdict is RIGHT


def test_only_a_new_turn_finishes_a_completion(judge: CodeJudge) -> None:
    """A later block may correct an earlier one or bring its helper, so a closed block settles nothing."""
    assert not judge.finished(f"{FENCE}python\n{GOOD}\n{FENCE}")
    assert judge.finished(f"{FENCE}python\n{GOOD}\n{FENCE}\n\nQ: more")


@pytest.mark.parametrize(
    "forgery",
    [
        "g = sys._getframe(1).f_globals\nfor v in list(g.values()):\n"
        "    if isinstance(v, (str, bytes)) and len(v) == 32:\n"
        "        os.write(g['channel'], v if type(v) is bytes else v.encode())",
        "for a in open('/proc/self/cmdline').read().split('\\0'):\n    if len(a) == 32: os.write(4, a.encode())",
        "for a in os.environ.values():\n    if len(a) == 32: os.write(4, a.encode())",
        "if os.fork() == 0: sys.exit(0)",
    ],
)
def test_the_proof_that_the_tests_passed_is_not_lying_about(judge: CodeJudge, forgery: str) -> None:
    assert judge(f"{FENCE}python\nimport os, sys\n{forgery}\ndef add(a, b): return 0\n{FENCE}", TESTS).verdict is WRONG


@pytest.mark.skipif(ISOLATION == "none", reason="no bubblewrap and no namespaces here")
def test_isolated_programs_reach_nothing_outside(tmp_path: Path) -> None:
    judge = CodeJudge(seconds=2, megabytes=512)
    mark = tmp_path / "mark"
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        for code in (
            f"open({str(mark)!r}, 'w')",
            f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
            f"import os\nos.kill({os.getpid()}, 0)",
            f"assert 'PATH' in open('/proc/{os.getpid()}/environ').read()",
        ):
            assert judge(f"{FENCE}python\n{code}\n{GOOD}\n{FENCE}", TESTS).verdict is WRONG, code
        for code in (
            "import threading\nt = threading.Thread(target=int)\nt.start()\nt.join()",
            "open('file', 'w').write('x')",
            "import os\nif os.fork() == 0: os._exit(0)\nos.wait()",
        ):
            assert judge(f"{FENCE}python\n{code}\n{GOOD}\n{FENCE}", TESTS).verdict is RIGHT, code
    assert not mark.exists()


def test_without_isolation_the_judge_refuses_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code_judge._isolation.cache_clear()
    with pytest.raises(CcaError, match="isolation: none"):
        CodeJudge()
    assert CodeJudge(isolation="none").isolation == "none"
    code_judge._isolation.cache_clear()
    with pytest.raises(CcaError, match="expected isolation"):
        CodeJudge(isolation="docker")


def test_golds_and_options_are_checked() -> None:
    with pytest.raises(CcaError, match="Python tests"):
        CodeJudge(isolation="none").check_gold("assert (")
    with pytest.raises(CcaError, match="seconds >= 1"):
        make_judge("code", allow_code=True, seconds=0)


def test_a_preamble_comes_first() -> None:
    judge = make_judge("code", allow_code=True, isolation=ISOLATION, preamble="import math")
    assert judge("def half(): return math.pi / 2", "assert half() < 2").verdict is RIGHT

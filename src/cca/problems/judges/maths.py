"""The math judge: symbolic equality of the stated answer and the gold answer, decided by math-verify.

Two strict numerals are compared exactly by the number judge's rules. Everything else goes to math-verify in a helper
process: sympy may think for ever about one expression and its own timeout works in the main thread only. An answer
that is not decided in time counts as wrong, in the helper as in the literature.
"""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
import threading
import weakref
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from cca.errors import CcaError
from cca.problems.judges.judge import Judgement, judgement
from cca.problems.judges.numbers import read_number
from cca.problems.judges.quantities import Quantity
from cca.problems.judges.reading import Reader
from cca.problems.judges.statements import REACH, Statement, boxed
from cca.problems.judges.typography import GROUPING, plain

_INLINE = re.compile(r"\$\$?([^$]{1,400})\$\$?|\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]", re.DOTALL)
_UNITS = re.compile(r"\\(?:text|mbox)[ ]?\{[^{}]*\}|\\mathrm[ ]?\{[ ]*[^{}\s][^{}]+\}|\^?\{?\\circ\}?")
_UPRIGHT = re.compile(r"\\(?:mathrm|rm)[ ]?\{[ ]*([A-Za-z])[ ]*\}")
"""A letter set upright, as e and i often are, which math-verify cannot read."""
_NUMERAL = re.compile(
    r"[-+]?(?:\\?\$)?"
    r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+|\d*\\[dt]?frac\{?\d+\}?\{?\d+\}?|\d+/\d+)[ ]?(?:\\?%)?\.?"
)
_HEAD_NUMERAL = re.compile(
    r"[\s*_:~]*(-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?\\?%?)"
    r"(?=\.?\s*\Z|,?[ ](?:because|since|as|where|when|if|for|so)\b|[ ]\(|;[ ])"
)
"""A number that a statement begins with and its reasons follow: "12, since $a = 3$"."""
_FARTHEST = 4000
"""Distance from the end, in characters, up to which a text that states no answer is searched for a formula."""
_OUTER = " \t\n.,;:?*_`$"


class MathJudge(Reader[str]):
    """``seconds`` bounds one comparison."""

    name = "math"

    def __init__(self, *, seconds: float = 5.0, thinking: bool = False, final: bool = True) -> None:
        super().__init__(thinking=thinking, final=final)
        if find_spec("math_verify") is None:
            raise CcaError("judge 'math' needs math-verify: pip install -e \".[math]\"")
        if not seconds > 0:
            raise CcaError(f"judge 'math': expected seconds above 0, got {seconds!r}")
        self.helper = Helper(seconds)

    def read_gold(self, gold: str) -> str:
        box = boxed(gold)
        text = (gold.rpartition("####")[2] if box is None else box).strip().strip("$").strip()
        if not text:
            raise CcaError(f"judge 'math': expected a gold answer, got {gold!r}")
        return text

    def check_gold(self, gold: str) -> None:
        if not self.helper.readable(self.read_gold(gold)):
            raise CcaError(f"judge 'math': expected a gold answer that math-verify can parse, got {gold!r}")

    def read_statement(self, statement: Statement) -> str | None:
        if statement.denies:
            return None
        prose = statement.kind not in ("box", "tag")  # where "5!" is a factorial
        return _expression(statement.text.rstrip("!") if prose else statement.text)

    def read_whole(self, text: str, cut_off: bool = False) -> str | None:
        """The last formula of the text, else what its last line says after "="."""
        if cut_off:
            return None
        formulas = list(_INLINE.finditer(text[-_FARTHEST:]))
        if formulas:
            return _inner(formulas[-1])
        line = text.rstrip().rpartition("\n")[2].rpartition("=")[2].strip(_OUTER)
        return line if len(line) <= REACH and re.search(r"\d", line) else None

    def compare(self, answer: str, wanted: str) -> Judgement:
        mine, theirs = _tidy(answer), _tidy(wanted)
        one, other = _number(mine), _number(theirs)
        if mine != theirs and one is not None and other is not None:
            return judgement(answer, one.matches(other))
        return judgement(answer, mine == theirs or self.helper.equal(mine, theirs))


def _expression(text: str) -> str | None:
    box = boxed(text)
    if box is None:
        formula, head = _INLINE.search(text), _HEAD_NUMERAL.match(text)
        box = head[1] if head else text if formula is None else _inner(formula)
    box = box.strip(_OUTER)
    return box or None


def _inner(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None).strip()


def _tidy(text: str) -> str:
    """``text`` with single letters set in italics and one space for runs of them."""
    return " ".join(_UPRIGHT.sub(r" \1 ", plain(text)).split())


@lru_cache(maxsize=4096)
def _number(text: str) -> Quantity | None:
    """``text`` as a number, when it is one strict numeral with a unit at most; all else is math-verify's."""
    text = GROUPING.sub(",", _UNITS.sub("", text)).strip()
    return read_number(text) if _NUMERAL.fullmatch(text) else None


_LONGEST = 2000
"""Longer expressions are not given to sympy: they are never equal."""
_START_SECONDS = 120.0
_MEMORY = 4 << 30
_TRIES = 3


class Helper:
    """Starts its process with the first question; usable from several threads, one question at a time.

    The process has a session of its own: a terminal's Ctrl-C or a batch system's TERM to the run's group must not reach
    it. A process that died has given no answer, so the question is asked again; only a time-out is one.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._known: dict[tuple[str, str], bool] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stop = lambda: None

    def equal(self, answer: str, gold: str) -> bool:
        """True when both are the same expression; False also when that cannot be decided in time."""
        if max(len(answer), len(gold)) > _LONGEST:
            return False
        if (answer, gold) not in self._known:
            self._known[answer, gold] = self._ask({"answer": answer, "gold": gold})
        return self._known[answer, gold]

    def readable(self, expression: str) -> bool:
        return len(expression) <= _LONGEST and self._ask({"gold": expression})

    def _ask(self, request: dict[str, str]) -> bool:
        """The reply; False at a time-out and for a question that kills the process every time (out of memory)."""
        with self._lock:
            for _ in range(_TRIES):
                try:
                    process = self._running()
                    assert process.stdin is not None
                    process.stdin.write(json.dumps(request).encode() + b"\n")
                    process.stdin.flush()
                    reply = _line(process, self.seconds)
                except BrokenPipeError:  # it died since the last question
                    reply = None
                except BaseException as error:  # also interrupted: this reply must not pass for the next one's
                    self._end()
                    if not isinstance(error, TimeoutError):
                        raise
                    return False
                if reply is not None:
                    return reply
                self._end()
            return False

    def _end(self) -> None:
        self._stop()
        self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import _serve; _serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._stop = weakref.finalize(self, _kill, self._process)
            try:
                ready = _line(self._process, _START_SECONDS)
            except TimeoutError:
                ready = None
            if ready is None:
                raise CcaError("judge 'math': the math-verify helper did not start; does `import math_verify` work?")
        return self._process


def _line(process: subprocess.Popen[bytes], seconds: float) -> bool | None:
    """The next reply, or None when the process has ended. Raises TimeoutError."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    if not ready:
        raise TimeoutError
    line = process.stdout.readline()
    return json.loads(line) if line.endswith(b"\n") else None


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _far_apart(gold: Any, answer: Any) -> bool:
    """True when two numbers differ by more than rounding: math-verify's own tolerance lets 1/2004! equal 1/2006!."""
    from sympy import Expr

    if not (isinstance(gold, Expr) and isinstance(answer, Expr) and gold.is_number and answer.is_number):
        return False
    if gold.is_zero:
        return bool(abs(answer.evalf()) > 1e-12)
    return bool(abs((answer / gold).evalf() - 1) > 1e-6)


def _serve() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    from math_verify import LatexExtractionConfig, parse, verify

    replies, sys.stdout = sys.stdout, sys.stderr  # a stray print must not pass for a reply

    def read(expression: str) -> list[Any]:
        # LaTeX only: the other extractor hands text to sympy's parse_expr, which evaluates it.
        formula, latex = f"${expression}$", [LatexExtractionConfig()]
        return parse(formula, latex, fallback_mode="no_fallback", parsing_timeout=0)

    print("true", file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            gold = read(request["gold"])
            answer = read(request["answer"]) if "answer" in request else gold
            same = bool(gold) and bool(answer) and verify(gold, answer, timeout_seconds=None)
            same = bool(same) and not _far_apart(gold[0], answer[0])
        except (MemoryError, RuntimeError, ArithmeticError, ValueError, TypeError, AttributeError):
            same = False  # an expression that sympy fails on equals nothing
        print(json.dumps(same), file=replies, flush=True)

"""math-verify in a process of its own, killed and started again when it takes too long.

Protocol: one JSON request per line on its standard input, one JSON reply per line on its standard output.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
import weakref
from typing import Any

from cca.errors import CcaError

LONGEST = 2000
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
        if max(len(answer), len(gold)) > LONGEST:
            return False
        if (answer, gold) not in self._known:
            self._known[answer, gold] = self._ask({"answer": answer, "gold": gold})
        return self._known[answer, gold]

    def readable(self, expression: str) -> bool:
        return len(expression) <= LONGEST and self._ask({"gold": expression})

    def _ask(self, request: dict[str, str]) -> bool:
        """The reply; False at a time-out and for a question that kills the process every time (out of memory)."""
        with self._lock:
            for _ in range(_TRIES):
                try:
                    reply = self._reply(request)
                except TimeoutError:
                    self._end()
                    return False
                except BaseException:  # interrupted: the reply under way must not pass for the next one's
                    self._end()
                    raise
                if reply is not None:
                    return reply
                self._end()
            return False

    def _reply(self, request: dict[str, str]) -> bool | None:
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:  # it died since the last question
            return None
        return _line(process, self.seconds)

    def _end(self) -> None:
        self._stop()
        self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
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
                raise CcaError(
                    "judge 'math': the math-verify helper did not start; does `import math_verify` work?"
                )
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
        except (
            MemoryError,
            RecursionError,
            ArithmeticError,
            ValueError,
            TypeError,
            AttributeError,
            NotImplementedError,
        ):
            same = False  # an expression that sympy fails on equals nothing
        print(json.dumps(same), file=replies, flush=True)


if __name__ == "__main__":
    _serve()

"""math-verify in a process of its own, killed and started anew when it takes too long.

Protocol: one JSON request a line on its standard input, one JSON reply a line on its standard output.
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


class Helper:
    """Starts its process with the first question; usable from several threads, one question at a time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._known: dict[tuple[str, str], bool] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stop = lambda: None

    def equal(self, answer: str, gold: str) -> bool:
        """Whether both are the same expression; False when that cannot be told in time."""
        if max(len(answer), len(gold)) > LONGEST:
            return False
        if (answer, gold) not in self._known:
            self._known[answer, gold] = self._ask({"answer": answer, "gold": gold}) is True
        return self._known[answer, gold]

    def readable(self, expression: str) -> bool:
        return len(expression) <= LONGEST and self._ask({"gold": expression}) is True

    def _ask(self, request: dict[str, str]) -> bool | None:
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            reply = _line(process, self.seconds)
            if reply is None:
                self._stop()
                self._process = None
            return reply

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self._stop = weakref.finalize(self, _kill, self._process)
            if _line(self._process, _START_SECONDS) is None:
                raise CcaError(
                    "judge 'math': the math-verify helper did not start; does `import math_verify` work?"
                )
        return self._process


def _line(process: subprocess.Popen[bytes], seconds: float) -> bool | None:
    """The next reply, or None when it does not come in time or the process has ended."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline() if ready else b""
    return json.loads(line) if line else None


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _far_apart(gold: Any, answer: Any) -> bool:
    """Whether two numbers differ by more than rounding: math-verify's own tolerance lets 1/2004! equal 1/2006!."""
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
        gold = read(request["gold"])
        answer = read(request["answer"]) if "answer" in request else gold
        same = bool(gold) and bool(answer) and verify(gold, answer, timeout_seconds=None)
        same = same and not _far_apart(gold[0], answer[0])
        print(json.dumps(bool(same)), file=replies, flush=True)


if __name__ == "__main__":
    _serve()

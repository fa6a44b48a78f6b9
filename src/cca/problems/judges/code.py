"""The code judge: runs the Python code of a completion together with the gold answer's unit tests.

The code runs in a process of its own, in an empty folder and with limits on time, memory, files and (for a user
other than root) processes. That protects a run from accidents: endless loops, floods of output, exhausted memory.
It is no sandbox against an attacker: network and readable files stay within reach, so run models you do not trust in
a container. `make_judge` refuses this judge unless code was allowed.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cca.errors import CcaError
from cca.problems.judges.judge import UNREADABLE, Judgement, judgement
from cca.problems.judges.reading import answer_text, parts

_PYTHON = re.compile(r"(?:python3?|py)?[ \t]*\r?\n", re.IGNORECASE)
_DEFINITION = re.compile(r"^[ \t]*(?:async[ ]+def|def|class)[ ]+\w", re.MULTILINE)
_OPENING = re.compile(r"^(?:from|import|def|class|async[ ]+def|@)[ ]?\w", re.MULTILINE)

# Runs in the child after it has started, so that no lock of a threaded parent is inherited. The last line proves
# that the tests were reached and passed: a program that exits early with status 0 has proven nothing.
_RUNNER = """
import os, resource, sys
seconds, memory, channel, token = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
for kind, limit in (
    (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 1 << 20),
    (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NPROC, 0), (resource.RLIMIT_NOFILE, 64),
):
    resource.setrlimit(kind, (limit, limit))
sys.argv[1:] = []
program = open("program.py", encoding="utf-8").read()
exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})
os.write(channel, token.encode())
"""


class CodeJudge:
    """``seconds`` and ``megabytes`` limit one run; ``preamble`` is put before each program (imports, say)."""

    name = "code"

    def __init__(
        self, *, seconds: int = 10, megabytes: int = 512, preamble: str = "", thinking: bool = False
    ) -> None:
        if os.name != "posix":
            raise CcaError(
                "judge 'code': expected Linux or macOS, whose resource limits it needs; use a container"
            )
        if seconds < 1 or megabytes < 64:
            raise CcaError(
                f"judge 'code': expected seconds >= 1 and megabytes >= 64, got {seconds}, {megabytes}"
            )
        self.seconds, self.megabytes, self.preamble = seconds, megabytes, preamble
        self.thinking = thinking

    def __call__(self, text: str, gold: str) -> Judgement:
        code = read_code(answer_text(text, self.thinking))
        if code is None:
            return UNREADABLE
        return judgement(code, self.passes(f"{self.preamble}\n{code}\n\n{gold}\n"))

    def finished(self, text: str) -> bool:
        """A closed block that defines something is the answer, whatever follows."""
        for part in parts(text, self.thinking):
            if part.ended or any(block.closed and block.defines for block in _blocks(part.text)):
                return True
        return False

    def check_gold(self, gold: str) -> None:
        try:
            compile(gold, "tests", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise CcaError(
                f"judge 'code': expected a gold answer of Python tests, got {gold!r} ({error})"
            ) from error

    def passes(self, program: str) -> bool:
        """Whether ``program`` runs to its end within the limits."""
        token = secrets.token_hex(16)
        receiving, sending = os.pipe()
        try:
            with tempfile.TemporaryDirectory(prefix="cca-code-") as folder:
                Path(folder, "program.py").write_text(program, encoding="utf-8", errors="replace")
                self._run(folder, sending, token)
            os.set_blocking(receiving, False)
            try:
                return os.read(receiving, len(token) + 1) == token.encode()
            except BlockingIOError:
                return False
        finally:
            os.close(receiving)
            os.close(sending)

    def _run(self, folder: str, channel: int, token: str) -> None:
        arguments = [str(self.seconds), str(self.megabytes << 20), str(channel), token]
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _RUNNER, *arguments],
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(channel,),
            start_new_session=True,
        )
        try:
            with suppress(subprocess.TimeoutExpired):  # killed below: without a token it has failed
                process.wait(timeout=self.seconds + 1)
        finally:
            with suppress(ProcessLookupError):  # the whole group is gone already
                os.killpg(process.pid, signal.SIGKILL)  # also what the program left running
            process.wait()


@dataclass(frozen=True, slots=True)
class _Block:
    code: str
    closed: bool
    """A fence follows, so that no continuation adds to it."""

    @property
    def defines(self) -> bool:
        return _DEFINITION.search(self.code) is not None


def read_code(text: str) -> str | None:
    """The first block of code that defines something, else the first block that is not empty."""
    blocks = [block for block in _blocks(text) if block.code.strip()]
    return next((block.code for block in blocks if block.defines), blocks[0].code if blocks else None)


def _blocks(text: str) -> list[_Block]:
    """Fenced blocks of Python, and before them code that no fence opened (the prompt did, or there is none)."""
    pieces = text.split("```")
    blocks: list[_Block] = []
    opening = _OPENING.search(pieces[0])
    if opening is not None and (len(pieces) == 1 or _DEFINITION.search(pieces[0], opening.start())):
        blocks.append(_Block(pieces[0][opening.start() :], closed=len(pieces) > 1))
    for number, piece in enumerate(pieces[1::2], start=1):
        language = _PYTHON.match(piece)
        if language is not None:
            blocks.append(_Block(piece[language.end() :], closed=2 * number < len(pieces)))
    return blocks

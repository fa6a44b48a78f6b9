"""The code judge: runs the Python code of a completion together with the gold answer's unit tests.

The code runs in a process of its own, with limits on time, memory and files, in the strongest isolation that the
machine has: bubblewrap, else Linux namespaces of its own (``unshare``). There it sees no network and no other process,
writes to a small folder in memory alone, and dies with all its children. Without either the judge refuses, unless given
``isolation: none`` (in a container of your own, say).

That holds accidents, not a program written to deceive this judge: tests and code share an interpreter. `make_judge`
refuses this judge unless code was allowed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import cache

from cca.errors import CcaError
from cca.problems.judges.judge import UNREADABLE, Judgement, judgement
from cca.problems.judges.reading import WholeReader

_WRAPPINGS = {
    "bubblewrap": "bwrap --ro-bind / / --dev /dev --proc /proc --size {size} --tmpfs {folder} --chdir {folder} "
    "--unshare-all --die-with-parent --cap-drop ALL",
    "namespaces": "unshare --user --map-root-user --mount --pid --net --ipc --uts --fork --kill-child --mount-proc",
    "none": "",
}
"""The command that runs a program in each isolation, the strongest first."""
_FOLDER_BYTES = 64 << 20
_PROCESSES = 128
_TOKEN_BYTES = 32

# Runs in the child: it reads the program, shuts itself in, runs it, and only then reads the token that proves that the
# tests were reached and passed (a program that exits early with status 0 has proven nothing). Nothing of the token is
# in its arguments, environment or variables while the program runs.
_RUNNER = """
import json, os, resource, sys
source, channel = int(sys.argv[1]), int(sys.argv[2])
sys.argv[1:] = []
def shut_in(size):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    def done(result):
        if result != 0:
            raise OSError(ctypes.get_errno(), "namespace")
    done(libc.syscall(442, -100, b"/", 0x8000, (ctypes.c_uint64 * 4)(1, 0, 0, 0), 32))  # all mounts read-only
    done(libc.mount(b"tmpfs", os.getcwd().encode(), b"tmpfs", 6, b"size=%d" % size))
    os.chdir(os.getcwd())
    done(libc.prctl(38, 1, 0, 0, 0))  # no new privileges
    done(libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()))
def main():
    order = json.loads(b"".join(iter(lambda: os.read(source, 1), b"\\n")))
    if order["shut_in"]:
        shut_in(order["folder"])
    for kind, limit in order["limits"].items():
        resource.setrlimit(getattr(resource, kind), (limit, limit))
    with open("program.py", "w", encoding="utf-8", errors="replace") as file:
        file.write(order["program"])
    return compile(order["program"], "program.py", "exec"), os.getpid(), os.read, os.write, os.getpid
program, pid, read, write, own = main()
exec(program, {"__name__": "__main__"})
if own() == pid:
    write(channel, read(source, 32))
"""


class CodeJudge(WholeReader):
    """``seconds`` and ``megabytes`` limit one run; ``preamble`` is put before each program (imports, say).

    ``isolation``: auto takes the strongest there is; bubblewrap, namespaces, or none.
    """

    name = "code"

    def __init__(
        self, *, seconds: int = 10, megabytes: int = 512, preamble: str = "", isolation: str = "auto",
        thinking: bool = False,
    ) -> None:  # fmt: skip
        if os.name != "posix":
            raise CcaError("judge 'code': expected Linux or macOS, whose resource limits it needs; use a container")
        if seconds < 1 or megabytes < 64:
            raise CcaError(f"judge 'code': expected seconds >= 1 and megabytes >= 64, got {seconds}, {megabytes}")
        self.seconds, self.megabytes, self.preamble = seconds, megabytes, preamble
        super().__init__(thinking=thinking)
        self.isolation = _isolation(isolation)

    def __call__(self, text: str, gold: str, *, cut_off: bool = False) -> Judgement:
        code = read_code(*self.answer(text, cut_off))  # a later block may correct an earlier one
        if code is None:
            return UNREADABLE
        program = f"{self.preamble}\n{code}\n\n{gold}\n"
        return judgement(code, _run(program, self.isolation, self.seconds, self.megabytes))

    def check_gold(self, gold: str) -> None:
        try:
            compile(gold, "tests", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise CcaError(f"judge 'code': expected a gold answer of Python tests, got {gold!r} ({error})") from error


@cache
def _isolation(wanted: str) -> str:
    """The isolation to use: ``wanted``, or the strongest that works here. Raises CcaError when there is none."""
    if wanted not in ("auto", *_WRAPPINGS):
        raise CcaError(f"judge 'code': expected isolation auto, {', '.join(_WRAPPINGS)}, got {wanted!r}")
    if wanted == "none":
        return wanted
    for name in ("bubblewrap", "namespaces") if wanted == "auto" else (wanted,):
        if shutil.which(_WRAPPINGS[name].split()[0]) and _run("", name, 10, 512):
            return name
    raise CcaError(
        f"judge 'code': expected a way to isolate programs ({wanted}), got a machine without; install bubblewrap, or "
        "set isolation: none where nothing is at stake (a container of your own)"
    )


def _run(program: str, isolation: str, seconds: int, megabytes: int) -> bool:
    """True when ``program`` runs to its end within the limits."""
    token = secrets.token_hex(_TOKEN_BYTES // 2).encode()
    limits = {"RLIMIT_CPU": seconds, "RLIMIT_AS": megabytes << 20, "RLIMIT_FSIZE": 1 << 20}
    limits |= {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": 64}
    if isolation != "none":  # elsewhere the limit counts what else the user runs, and threads fail by chance
        limits["RLIMIT_NPROC"] = _PROCESSES
    order = {"program": program, "limits": limits, "folder": _FOLDER_BYTES, "shut_in": isolation == "namespaces"}
    receiving, sending = os.pipe()
    source, feeding = os.pipe()
    try:
        with tempfile.TemporaryDirectory(prefix="cca-code-") as folder:
            wrapping = [part.format(size=_FOLDER_BYTES, folder=folder) for part in _WRAPPINGS[isolation].split()]
            runner = [sys.executable, "-I", "-c", _RUNNER, str(source), str(sending)]
            process = subprocess.Popen(
                [*wrapping, *runner],
                cwd=folder,
                env={"PATH": os.defpath, "HOME": folder, "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"},
                **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL),
                pass_fds=(source, sending),
                start_new_session=True,
            )
            try:
                os.close(source)
                with os.fdopen(feeding, "wb") as feed, suppress(BrokenPipeError):
                    feed.write(json.dumps(order).encode() + b"\n" + token)
                with suppress(subprocess.TimeoutExpired):  # killed below: without a token it has failed
                    process.wait(timeout=seconds + 1)
            finally:
                with suppress(ProcessLookupError):  # the whole group is gone already
                    os.killpg(process.pid, signal.SIGKILL)  # also what the program left running
                process.wait()
        os.set_blocking(receiving, False)
        try:
            return os.read(receiving, len(token) + 1) == token
        except BlockingIOError:
            return False
    finally:
        os.close(receiving)
        os.close(sending)


_OPENING = re.compile(r"^(?:from|import|def|class|async[ ]+def|@)[ ]?\w", re.MULTILINE)
_DEFINITION = re.compile(r"^[ \t]*(?:async[ ]+def|def|class)[ ]+\w", re.MULTILINE)
_FENCE = re.compile(r"(`{3,}|~{3,})[ \t]*([^\n`]*)\n|\[PYTHON\]", re.IGNORECASE)
_LANGUAGE = re.compile(r"[\s{.]*([\w+#-]*)")
_PYTHON = {"", "python", "python3", "py", "py3", "pycon", "ipython"}
_TRIES = 50
_LONGEST = 50_000


def read_code(text: str, cut_off: bool = False) -> str | None:
    """The program in ``text``: its blocks of Python that compile, put together; None when there is none.

    Of several blocks that define something the last counts as it is, earlier ones with their definitions alone: a
    later definition corrects an earlier one, and a helper may have a block of its own.
    """
    read = [_readable(code) for code, closed in _blocks(text) if code.strip() and (closed or not cut_off)]
    blocks = [block for block in read if block is not None]
    defining = [block for block in blocks if any(isinstance(node, _DEFINITIONS) for node in block[1].body)]
    if not defining:
        return blocks[0][0] if blocks else None
    kept = (*_DEFINITIONS, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    earlier = [node for _, tree in defining[:-1] for node in tree.body if isinstance(node, kept)]
    return "\n".join([*(ast.unparse(node) for node in earlier), defining[-1][0]])


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _readable(code: str) -> tuple[str, ast.Module] | None:
    """``code`` so that it compiles: as it is, without indent, or out of an interpreter session."""
    session = [line[4:] for line in code.splitlines() if line.startswith((">>> ", "... "))]
    for source in (code, textwrap.dedent(code), "\n".join(session)):
        tree = _parse(source)
        if isinstance(tree, ast.Module) and tree.body:
            return source, tree
    return None


def _parse(source: str) -> ast.Module | int:
    """The syntax tree, or the line of the first fault."""
    if len(source) > _LONGEST:
        return 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source, "program.py")
            compile(tree, "program.py", "exec")
            return tree
    except SyntaxError as error:
        return error.lineno or 0
    except (ValueError, RecursionError, MemoryError):
        return 0


def _blocks(text: str) -> Iterator[tuple[str, bool]]:
    """(code, closed) of code that no fence opened (the prompt did, or there is none), then of each fenced block."""
    first = _FENCE.search(text)
    before = re.split(r"```|~~~|\[/?PYTHON\]", text, maxsplit=1)
    opening = _OPENING.search(before[0])
    if opening is not None and (len(before) == 1 or _DEFINITION.search(before[0], opening.start())):
        yield _without_prose(before[0][opening.start() :]), len(before) > 1
        # A fence without a language closes what the prompt opened.
        if len(before) > 1 and first is not None and first[1] and not first[2].strip():
            first = _FENCE.search(text, first.end())
    for _ in range(_TRIES):
        if first is None:
            return
        mark = first[1] or ""
        fence = rf"^[ \t>]*{mark[0]}{{{len(mark)},}}[ \t]*$|{mark}" if mark else r"\[/PYTHON\]"
        end = re.compile(fence, re.MULTILINE).search(text, first.end())
        language = _LANGUAGE.match(first[2] or "")
        if language is not None and language[1].lower() in _PYTHON:
            yield text[first.end() : end.start() if end else len(text)], end is not None
        first = _FENCE.search(text, end.end()) if end else None


def _without_prose(code: str) -> str:
    """The longest beginning of ``code``, in whole lines, that compiles; all of it where nothing does."""
    lines = code.splitlines(keepends=True)
    for _ in range(_TRIES):
        fault = _parse("".join(lines))
        if not isinstance(fault, int):
            return "".join(lines)
        if not 1 < fault <= len(lines):
            break
        lines = lines[: fault - 1]
    return code

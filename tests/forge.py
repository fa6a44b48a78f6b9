"""Runs `cca` in children that may be killed: torch is imported once, each command is a fork of that process.

``python forge.py`` answers requests, a JSON object a line on standard input; `Forge` is how tests talk to it.

* ``arguments``: of the command. ``children``: how many start at once (1).
* ``port``: the children are the processes of one run, which meet at this port.
* ``signals``: [[seconds after the start, or a file to wait for, signal number], ...] to send.
* ``group``: the signals go to each child's process group, as a terminal and a scheduler send them.
* ``crashes``: a file of crash points already had. The child dies at the first point not in it and adds it: in every
  file written, before it is flushed, before and after it is renamed, and with the last bytes of an append missing.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

CRASHED = 137


class Forge:
    """The process that forks, as a context manager."""

    def __enter__(self) -> Forge:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def cca(self, *arguments: str | Path, **request: Any) -> tuple[int, str]:
        """Exit code (minus the signal's number for a child that died of one) and output of one command."""
        ((code, output),) = self.ask(arguments, **request)
        return code, output

    def ask(self, arguments: Sequence[str | Path], **request: Any) -> list[tuple[int, str]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        whole = {"arguments": [str(argument) for argument in arguments], **request}
        self.process.stdin.write(json.dumps(whole) + "\n")
        self.process.stdin.flush()
        return [tuple(answer) for answer in json.loads(self.process.stdout.readline())]


def serve() -> None:
    from cca.cli.main import main

    import_module("cca.runs.pipeline")  # before the fork, once for all children
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        outputs = [Path(f"/tmp/forge.{os.getpid()}.{number}") for number in range(request.get("children", 1))]
        children = [fork(output, request, main, rank) for rank, output in enumerate(outputs)]
        began = time.monotonic()
        send = os.killpg if request.get("group") else os.kill
        for when, number in request.get("signals", ()):
            wait_until(when, began)
            for child in children:
                send(child, number)
        answers = []
        for child, output in zip(children, outputs, strict=True):
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            answers.append((code, output.read_text()))
            output.unlink()
        replies.write(json.dumps(answers) + "\n")
        replies.flush()


def wait_until(when: float | str, began: float) -> None:
    if isinstance(when, str):
        while not os.path.exists(when) and time.monotonic() < began + 60:
            time.sleep(0.005)
    else:
        time.sleep(max(0.0, began + when - time.monotonic()))


def fork(output: Path, request: dict[str, Any], main: Callable[[], None], rank: int) -> int:
    child = os.fork()
    os.setpgid(child, 0)  # by parent and child, whichever comes first
    if child:
        return child
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["cca", *request["arguments"]]
    if "port" in request:
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": request["children"]}
        world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": request["port"]}
        os.environ |= {name: str(value) for name, value in world.items()}
    if "crashes" in request:
        crash_at_new_points(Path(request["crashes"]))
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def crash_at_new_points(had: Path) -> None:
    """Make this process die at the first write that is not yet in ``had``."""
    fsync, replace = os.fsync, os.replace

    def point(what: str, path: str, before: Callable[[], object] = lambda: None) -> None:
        name = Path(path).name
        name = name.removeprefix(".").rpartition(".")[0] if what == "flush" else name  # .name.random
        label = f"{what} {name}\n"
        known = had.read_text() if had.exists() else ""
        if label not in known:
            had.write_text(known + label)
            before()
            os._exit(CRASHED)

    def crashing_fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if os.path.isdir(path):
            return fsync(descriptor)
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND:
            size = os.fstat(descriptor).st_size
            point("append torn", path, lambda: os.truncate(path, max(0, size - 9)))
            fsync(descriptor)
            point("appended", path)
        else:
            point("flush", path)
            fsync(descriptor)
        return None

    def crashing_replace(source: str, target: str | os.PathLike[str]) -> None:
        point("before rename", os.fspath(target))
        replace(source, target)
        point("renamed", os.fspath(target))

    os.fsync, os.replace = crashing_fsync, crashing_replace  # type: ignore[assignment]


if __name__ == "__main__":
    serve()

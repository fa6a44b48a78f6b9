"""Plants small faults in a copy of the package, one at a time, and names those that no test of their part notices.

``python -m tests.mutants [-j N] [NAME ...]`` tries all of `faults.FAULTS`, or those whose name holds one of the words.
Exit code 1 when a fault lives, or when its text is not to be found, exactly once, in the module it names.

Each fault is tried in a fork of this process, which has imported the libraries, but nothing of cca, already.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from tests.mutants.fault import Fault
from tests.mutants.faults import FAULTS

ROOT = Path(__file__).parents[2]
SECONDS = 600
"""Longest that the tests of one fault may take. One that makes them hang is not seen by them: plant another."""
LIBRARIES = ("scipy.stats", "sympy", "transformers.models.llama.modeling_llama")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("-j", type=int, default=1, help="faults tried at once")
    parser.add_argument("words", nargs="*", metavar="NAME", help="try the faults whose names hold one of these")
    given = parser.parse_args()
    chosen = [fault for fault in FAULTS if not given.words or any(word in fault.name for word in given.words)]
    lost = [f"{fault.name}: {why}" for fault in chosen if (why := misplaced(fault))]
    print(*lost, sep="\n", end="\n" if lost else "")
    os.environ["OMP_NUM_THREADS"] = "1"
    for library in LIBRARIES:
        import_module(library)
    settings.register_profile("first", phases=[Phase.explicit, Phase.generate])  # no need of a smaller example
    settings.load_profile("first")
    with tempfile.TemporaryDirectory() as folder:
        found = [fault for fault in chosen if not misplaced(fault)]
        living = survivors(found, Path(folder), given.j)
    print(f"{len(chosen)} faults: {living} live, {len(lost)} could not be planted")
    return 1 if living or lost or not chosen else 0


def source(module: str) -> Path:
    """The file of a module, relative to ``src``."""
    file = Path(*module.split("."))
    return file / "__init__.py" if (ROOT / "src" / file).is_dir() else file.with_suffix(".py")


def misplaced(fault: Fault) -> str:
    """Why a fault cannot be planted; empty where it can."""
    path = ROOT / "src" / source(fault.module)
    if not path.exists():
        return f"there is no module {fault.module}"
    count = path.read_text(encoding="utf-8").count(fault.old)
    gone = [name for test in fault.tests if not (ROOT / (name := test.partition("::")[0])).exists()]
    return f"expected its text once in {fault.module}, found it {count} times" if count != 1 else ", ".join(gone)


def survivors(faults: Sequence[Fault], folder: Path, most: int) -> int:
    """Try the faults, ``most`` at a time. Returns the number of those that no test noticed."""
    waiting, living = list(reversed(faults)), 0
    running: dict[int, tuple[Fault, Path, float]] = {}
    while waiting or running:
        while waiting and len(running) < most:
            fault, copy = waiting.pop(), Path(tempfile.mkdtemp(dir=folder))
            running[plant(fault, copy)] = fault, copy, time.monotonic()
        for process, (_, _, begun) in running.items():
            if time.monotonic() - begun > SECONDS:
                os.killpg(process, signal.SIGKILL)
        process, status = os.waitpid(-1, os.WNOHANG)
        if not process:
            time.sleep(0.1)
            continue
        fault, copy, begun = running.pop(process)
        output = (copy / "output").read_text(errors="replace")
        failure = first_failure(output) if status else ""
        living += not failure
        state = "killed" if failure else "NOT RUN" if status else "LIVES"
        seconds = time.monotonic() - begun
        print(f"{state}  {fault.name}  ({seconds:.0f} s)  {failure or output[-300:]}", flush=True)
        shutil.rmtree(copy)
    return living


def plant(fault: Fault, copy: Path) -> int:
    """Start the tests of a fault that is planted in ``copy``; returns the process that runs them."""
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", copy, ignore=left_out, dirs_exist_ok=True)
    planted = copy / source(fault.module)
    planted.write_text(planted.read_text(encoding="utf-8").replace(fault.old, fault.new), encoding="utf-8")
    process = os.fork()
    if process:
        return process
    code = 3
    try:
        os.setsid()
        os.chdir(ROOT)
        output = os.open(copy / "output", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(copy))
        code = int(pytest.main(["-x", "-rfE", "-p", "no:cacheprovider", "--no-header", "--tb=line", *fault.tests]))
        assert Path(import_module("cca").__file__ or "").is_relative_to(copy)
        sys.stdout.flush()
    except BaseException as error:
        code = 3
        print(repr(error), flush=True)
    os._exit(code)


def first_failure(output: str) -> str:
    """The first test that failed; empty where none was run: a file that cannot be collected notices nothing."""
    lines = (line for line in output.splitlines() if line.startswith(("FAILED", "ERROR")) and "::" in line)
    return next(lines, "")


if __name__ == "__main__":
    sys.exit(main())

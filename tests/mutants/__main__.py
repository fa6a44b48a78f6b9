"""Plants small faults in a copy of the package, one at a time, and names those that no test of their part notices.

``python -m tests.mutants [-j N] [NAME ...]`` tries all of `faults.FAULTS`, or those whose name holds one of the words.
Exit code 1 when a fault lives, or when its text is not to be found, exactly once, in the module it names.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.fault import Fault
from tests.mutants.faults import FAULTS

ROOT = Path(__file__).parents[2]
SECONDS = 600
"""Longest that the tests of one fault may take. One that makes them hang is not seen by them: plant another."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("-j", type=int, default=1, help="faults tried at once")
    parser.add_argument(
        "words", nargs="*", metavar="NAME", help="try the faults whose names hold one of these"
    )
    given = parser.parse_args()
    chosen = [fault for fault in FAULTS if not given.words or any(word in fault.name for word in given.words)]
    lost = [f"{fault.name}: {why}" for fault in chosen if (why := misplaced(fault))]
    print(*lost, sep="\n", end="\n" if lost else "")
    found = [fault for fault in chosen if not misplaced(fault)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.j) as pool:
        living = [name for name in pool.map(lambda fault: survivor(fault, Path(folder)), found) if name]
    print(f"{len(chosen)} faults: {len(living)} live, {len(lost)} could not be planted")
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
    return (
        f"expected its text once in {fault.module}, found it {count} times" if count != 1 else ", ".join(gone)
    )


def survivor(fault: Fault, folder: Path) -> str:
    """The fault's name when the tests of its part pass with it, or cannot be run."""
    copy, begun = Path(tempfile.mkdtemp(dir=folder)), time.monotonic()
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", copy, ignore=left_out, dirs_exist_ok=True)
    planted = copy / source(fault.module)
    planted.write_text(planted.read_text(encoding="utf-8").replace(fault.old, fault.new), encoding="utf-8")
    code, output = tested(fault, copy)
    shutil.rmtree(copy)
    failure = first_failure(output) if code else ""
    state = "killed" if failure else "LIVES" if code == 0 else "NOT RUN"
    seconds = time.monotonic() - begun
    print(
        f"{state}  {fault.name}  ({seconds:.0f} s)  {failure or output[-300:] * (code != 0)}",
        flush=True,
    )
    return "" if failure else fault.name


def tested(fault: Fault, copy: Path) -> tuple[int | None, str]:
    """The exit code of pytest, None when it ran too long, and what it printed."""
    command = [
        sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", *fault.tests
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None, "took too long"
    return done.returncode, done.stdout + done.stderr


def first_failure(output: str) -> str:
    """The first test that failed; empty where none was run: a file that cannot be collected notices nothing."""
    lines = (line for line in output.splitlines() if line.startswith(("FAILED", "ERROR")) and "::" in line)
    return next(lines, "")


if __name__ == "__main__":
    sys.exit(main())

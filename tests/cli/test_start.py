"""Commands that need no model start at once: they import no torch and take at most a second of CPU."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import tiny_world
from cca.patches.patch import Patch
from cca.patches.patch_file import save_patch

HEAVY = ("torch", "transformers", "datasets", "scipy", "sympy", "accelerate")
PROGRAM = f"""
import sys
from cca.cli.main import main
sys.argv[0] = "cca"
try:
    main()
finally:
    print("imported:", *[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
SECONDS = 1.0


@pytest.fixture(scope="module")
def patch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("patch") / "patch.safetensors"
    made = Patch.from_edits(tiny_world.model(), [], base_model="base", base_revision=None, circuit=[], made_by={})
    save_patch(path, made)
    return path


@pytest.mark.parametrize("command", [["--help"], ["config"], ["task", "list"], ["patch", "show"]], ids=" ".join)
def test_a_command_without_a_model_imports_no_torch(command: list[str], patch: Path) -> None:
    arguments = [*command, str(patch)] if command == ["patch", "show"] else command
    seconds = []
    for _ in range(3):  # the least of three: other processes slow this one
        before = used()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=60
        )
        seconds.append(used() - before)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
        assert done.stderr.splitlines()[-1].strip() == "imported:"
    assert min(seconds) < SECONDS


def used() -> float:
    """CPU seconds of the processes started here so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime

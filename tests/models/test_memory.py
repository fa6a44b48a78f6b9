"""Freed buffers stay with the process of a command, and go back when somebody asks how much is free."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")

HELD = """
from cca.models.memory import give_back_freed_memory, keep_freed_memory
import psutil
import torch
held_memory = lambda: psutil.Process().memory_info().rss
done = keep_freed_memory()
before = held_memory()
del_me = torch.ones(16 << 20)
del del_me
kept = held_memory() - before
give_back_freed_memory()
print(done, kept >> 20, (held_memory() - before) >> 20)
"""


def held(**environment: str) -> tuple[str, int, int]:
    command = [sys.executable, "-c", HELD]
    environment = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), **environment}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    return found[0], int(found[1]), int(found[2])


def test_a_freed_buffer_is_kept_until_it_is_given_back() -> None:
    done, kept, left = held()
    assert done == "True"
    assert kept >= 60
    assert left < 20


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_stays(name: str) -> None:
    value = "glibc.malloc.arena_max=4" if name == "GLIBC_TUNABLES" else "4"
    done, kept, _ = held(**{name: value})
    assert done == "False"
    assert kept < 20

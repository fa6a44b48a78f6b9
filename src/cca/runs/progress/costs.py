"""What each stage cost: seconds, generated tokens, peak memory; all sittings of a run together.

Kept in ``timing.json`` and brought up to date at every chunk, so a killed run forgets at most one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cca.errors import CcaError
from cca.files import read_json, write_json
from cca.models.memory import peak_memory, reset_peak_memory

FILE = "timing.json"
Account = dict[str, float]


class Accounts:
    """``tokens`` tells how many tokens were generated so far in this process."""

    def __init__(self, folder: Path, tokens: Callable[[], int]) -> None:
        self.path, self.tokens = folder / FILE, tokens
        self._open: tuple[str, Account, float, int] | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what the block takes to the stage's account, also when it is cut short. Blocks do not nest."""
        assert self._open is None, f"{stage} within {self._open}"
        before = read_accounts(self.path).get(stage, {"seconds": 0.0, "tokens": 0})
        reset_peak_memory()
        self._open = (stage, before, time.perf_counter(), self.tokens())
        try:
            yield
        finally:
            self.save()
            self._open = None

    def save(self) -> None:
        """Write down the open account as it stands."""
        if self._open is None:
            return
        stage, before, began, tokens = self._open
        account: dict[str, Any] = {
            "seconds": round(before["seconds"] + time.perf_counter() - began, 3),
            "tokens": int(before["tokens"]) + self.tokens() - tokens,
        }
        for device, size in peak_memory().items():
            account[f"peak_{device}_bytes"] = max(size, int(before.get(f"peak_{device}_bytes", 0)))
        write_json(self.path, {**read_accounts(self.path), stage: account})


def read_accounts(path: Path) -> dict[str, Account]:
    """The accounts by stage; none when there is no file. Raises CcaError for a damaged one."""
    if not path.exists():
        return {}
    accounts = read_json(path)
    if not isinstance(accounts, dict) or not all(map(_sound, accounts.values())):
        raise CcaError(
            f"{path}: expected seconds and tokens of each stage; delete the file, it holds nothing else"
        )
    return accounts


def _sound(account: object) -> bool:
    return (
        isinstance(account, dict)
        and {"seconds", "tokens"} <= account.keys()
        and all(type(value) in (int, float) and 0 <= value < 1e18 for value in account.values())
    )

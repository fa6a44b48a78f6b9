"""What the engines' tests share."""

from __future__ import annotations

import pytest
from agreement import Tell


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """How near the ties were belongs in the log of a test that passes, too."""

    def show(line: str) -> None:
        with capsys.disabled():
            print(f"\n  {line}", end="", flush=True)

    return show

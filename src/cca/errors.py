"""The one exception a user meets: a single line that says what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CcaError(Exception):
    """Bad input or an impossible request. The command line prints the message and exits with code 2."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown ``name``: "; did you mean 'x'?", or nothing when none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""

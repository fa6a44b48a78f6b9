"""The one exception a user meets: a single line that says what was expected, what came, and what to do."""

from __future__ import annotations


class CcaError(Exception):
    """Bad input or an impossible request. The command line prints the message and exits with code 2."""

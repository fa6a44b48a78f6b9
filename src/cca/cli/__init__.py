"""The command line: parses, calls, prints. One module a group of commands."""

from cca.cli.main import main

__all__ = ["main"]

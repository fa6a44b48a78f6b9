"""Files of a run are written and read here: atomically, self-describing, never pickled.

A JSONL file of ours opens with a header row ``{"format": "cca.traces", "version": 1, ...}`` and holds one noun
a line. Files appear whole or not at all: a temporary name in the same folder, flushed to disk, then renamed.

What a run leaves behind is sealed: ``hash`` in the header (of JSON files: next to the other keys) is the content hash
of all the rest, so that a file which changed since is refused. Files written by hand may do without.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cca.errors import CcaError

Row = dict[str, Any]
UNSEALED_HEADER = {"format", "version", "made_from", "method"}
"""What a header without a ``hash`` may hold: a key misspelled by accident must not unseal a file."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader, or a crash, sees the old file or the new one, never a mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Named as mkstemp would, but made by hand: the mode is the old file's, or what the umask leaves.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Raises CcaError for a text with half a surrogate pair, which no file can hold."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise CcaError(f"{path}: expected text to write, got {_half(error)}") from error
    write_bytes(path, data)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_rows(path: Path, format: str, version: int, rows: Iterable[Mapping[str, Any]], **header: Any) -> None:
    """Write a JSONL file of format ``format``: the header row, then ``rows``."""
    body = [json.loads(json.dumps(row, ensure_ascii=False)) for row in rows]
    first = {"format": format, "version": version, **header}
    lines = [json.dumps(row, ensure_ascii=False) for row in ({**first, "hash": fingerprint([first, *body])}, *body)]
    write_text(path, "\n".join(lines) + "\n")


def write_sealed(path: Path, format: str, version: int, value: Mapping[str, Any]) -> None:
    """Write a JSON object that carries its content hash; `read_sealed` is its reader."""
    whole = {"format": format, "version": version, **value}
    write_json(path, {**whole, "hash": fingerprint(json.loads(json.dumps(whole)))})


def read_sealed(path: Path, format: str, version: int) -> Row:
    """The object in a file made by `write_sealed`. Raises CcaError when it is of another format or has changed."""
    whole = read_json(path)
    if not isinstance(whole, dict) or whole.get("format") != format:
        raise CcaError(f"{path}: expected a {format} file, got something else")
    check_version(str(path), whole.get("version"), version)
    sealed = whole.pop("hash", None)
    if sealed != fingerprint(whole):
        raise CcaError(f"{path}: its content does not have the hash it was written with; delete it to make it again")
    return {key: value for key, value in whole.items() if key not in ("format", "version")}


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises CcaError naming the file when it is missing or malformed."""
    try:
        return _parsed(_read_text(path))
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise CcaError(f"{path}: expected JSON, got {error}") from error


def read_yaml(path: Path) -> Any:
    """Parse a YAML file of plain values. Raises CcaError naming the file when it is missing or malformed."""
    try:
        return yaml.load(_read_text(path), _UniqueKeys)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: also dates that are none
        raise CcaError(f"{path}: expected YAML, got {' '.join(str(error).split())[:200]}") from error


def read_jsonl(path: Path, by_hand: bool = False) -> Iterator[tuple[int, Row]]:
    """Yield (line number, object) for each non-empty line. Raises CcaError with the line number of a fault.

    ``by_hand``: the file is a user's; a key given twice and NaN are faults too.
    """
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _parsed(line, by_hand)
        except (ValueError, RecursionError) as error:
            raise CcaError(f"{path}, line {number}: expected a JSON object, got {error}") from error
        if not isinstance(row, dict):
            raise CcaError(f"{path}, line {number}: expected a JSON object, got {type(row).__name__}")
        yield number, row


def read_rows(path: Path, format: str, version: int) -> tuple[Row, list[Row]]:
    """Read a file made by `write_rows`: (header, rows).

    Refuses another format, a newer version, and a content that does not have the header's ``hash``.
    """
    numbered = list(read_jsonl(path))
    if not numbered or numbered[0][1].get("format") != format:
        raise CcaError(f"{path}: expected a {format} file (its first line says so), got something else")
    header = numbered[0][1]
    check_version(str(path), header.get("version"), version)
    rows = [row for _, row in numbered[1:]]
    if "hash" not in header and not header.keys() <= UNSEALED_HEADER:
        raise CcaError(
            f"{path}: expected a header with 'hash', or with {', '.join(sorted(UNSEALED_HEADER))} alone; "
            f"got {sorted(header)}"
        )
    bare = {key: value for key, value in header.items() if key != "hash"}
    if "hash" in header and header["hash"] != fingerprint([bare, *rows]):
        raise CcaError(f"{path}: its content does not have the hash in its header; make it again")
    return header, rows


def as_json(what: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``value`` as JSON gives it back. Raises CcaError for what JSON cannot hold, NaN included."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise CcaError(f"{what}: expected values that JSON can hold, got others ({error})") from error


def check_version(what: str, found: Any, known: int) -> None:
    """Raise CcaError unless ``found`` is a format version this program can read (1 ... ``known``)."""
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= known:
        raise CcaError(f"{what}: expected format version 1 to {known}, got {found!r:.80}; a newer cca may read it")


def fingerprint(value: Any) -> str:
    """A short content hash (16 hex digits of SHA-256) of any JSON value; key order does not matter."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping that gives a key twice, where YAML would take the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key in given:
            if given.count(key) > 1:
                raise ValueError(f"the key {key!r} twice, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def _unique_pairs(pairs: list[tuple[str, Any]]) -> Row:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key in made if [other for other, _ in pairs].count(key) > 1)
        raise ValueError(f"the key {twice!r} twice")
    return made


def refuse_constant(name: str) -> float:
    """``parse_constant`` of a JSON reader that takes no NaN and no infinity."""
    raise ValueError(f"{name}, which is not JSON")


def _parsed(text: str, by_hand: bool = False) -> Any:
    """The JSON value in ``text``. Raises ValueError also for half a surrogate pair, which JSON can spell and no text,
    tokenizer or file can hold."""
    value = (
        json.loads(text, object_pairs_hook=_unique_pairs, parse_constant=refuse_constant)
        if by_hand
        else json.loads(text)
    )
    if "\\u" in text:  # as an escape is the only way in
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(_half(error)) from error
    return value


def _half(error: UnicodeEncodeError) -> str:
    return f"half of a surrogate pair, \\u{ord(error.object[error.start]):04x}; write the character itself"


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut. Only POSIX opens folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Notepad, Excel and PowerShell write a byte-order mark
    except FileNotFoundError as error:
        raise CcaError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise CcaError(f"{path}: expected a file, got a folder") from error
    except UnicodeDecodeError as error:
        raise CcaError(f"{path}: expected UTF-8 text, got bytes that are not ({error.reason})") from error
    except OSError as error:
        raise CcaError(f"{path}: cannot be read ({error.strerror})") from error

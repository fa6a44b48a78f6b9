"""Rows of a dataset: from the Hugging Face hub, or from a local copy of the same files.

A local copy is one file, or a folder laid out as the dataset's repository is: ``main/test.jsonl``,
``data/train-00000-of-00001.parquet``. JSON lines, JSON, CSV and Parquet are read; Parquet and the hub need the
optional package `datasets`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cca.errors import CcaError
from cca.files import Row, read_json, read_jsonl

NEEDS_DATASETS = 'pip install -e ".[data]"'


def hub_rows(dataset: str, config: str | None, split: str, revision: str | None = None) -> list[Row]:
    """The rows of one split of a hub dataset. Raises CcaError when they cannot be had."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise CcaError(f"dataset {dataset}: the hub needs the package datasets: {NEEDS_DATASETS}") from error
    try:
        loaded = load_dataset(dataset, config, split=split, revision=revision)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CcaError(
            f"dataset {dataset}: split {split!r} cannot be loaded ({reason}); without a network, give a local "
            "copy of its files as task.path"
        ) from error
    return [dict(row) for row in loaded]


def local_rows(path: Path, config: str | None, split: str) -> list[Row]:
    """The rows of one split of a local copy: those of a file, or of the files that ``config`` and ``split`` name."""
    path = path.expanduser()
    if not path.exists():
        raise CcaError(f"{path}: no such file or folder; task.path is a local copy of the dataset's files")
    files = [path] if path.is_file() else _files(path, config, split)
    return [row for file in files for row in _read(file)]


def _files(folder: Path, config: str | None, split: str) -> list[Path]:
    base = folder / config if config and (folder / config).is_dir() else folder
    by_split = [base / split, folder / split / (config or "")]  # every file of such a folder is of the split
    for place in (base, base / "data", *by_split):
        files = [file for file in sorted(place.glob("*")) if file.suffix in READERS and file.is_file()]
        found = files if place in by_split else [file for file in files if _is_of(split, file)]
        formats = {file.suffix for file in found}
        if len(formats) > 1:
            raise CcaError(
                f"{place}: {split!r} is there as {' and as '.join(sorted(formats))}; name the file"
            )
        if found:
            return found
    wanted = f"{config}/{split}" if config else split
    raise CcaError(
        f"{folder}: expected files of {wanted} ({', '.join(f'*{suffix}' for suffix in READERS)}), found none"
    )


def _is_of(split: str, file: Path) -> bool:
    """``test.jsonl``, ``test-00000-of-00001.parquet`` and ``gsm_test.jsonl`` are of the split test."""
    return split in re.split(r"[-_.]", file.name)


def _read(file: Path) -> list[Row]:
    reader = READERS.get(file.suffix)
    if reader is None:
        raise CcaError(f"{file}: expected a file of {', '.join(READERS)}, got {file.suffix!r}")
    return reader(file)


def _json_lines(file: Path) -> list[Row]:
    return [row for _, row in read_jsonl(file)]


def _json(file: Path) -> list[Row]:
    """A list of objects, an object that is one row, or lines of JSON in spite of the name."""
    text = file.read_text(encoding="utf-8", errors="replace").lstrip()
    if text.startswith("{") and "\n{" in text.rstrip():
        return _json_lines(file)
    value: Any = read_json(file)
    rows = value if isinstance(value, list) else [value]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise CcaError(f"{file}: expected a list of objects, got {type(value).__name__}")
    return rows


def _csv(file: Path) -> list[Row]:
    try:
        with file.open(encoding="utf-8", newline="") as handle:
            return [dict(row) for row in csv.DictReader(handle, strict=True)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise CcaError(f"{file}: expected a CSV file in UTF-8, got {error}") from error


def _parquet(file: Path) -> list[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise CcaError(f"{file}: Parquet files need the package datasets: {NEEDS_DATASETS}") from error
    try:
        return parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise CcaError(
            f"{file}: expected a Parquet file, got {' '.join(str(error).split())[:200]}"
        ) from error


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}

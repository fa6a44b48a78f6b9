"""Addresses of a checkpoint's tensors: the shard and the bytes that hold each. No tensor is loaded.

A safetensors file is 8 bytes of header length, a JSON header, then the tensors' bytes. Reading the headers of all
shards takes milliseconds; after that any rows of any tensor can be read or overwritten where they lie. Headers and
index come from strangers: every offset and file name is checked before it is used.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cca.errors import CcaError
from cca.files import read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
JOURNALS = {"after": ".cca-apply.journal", "before": ".cca-revert.journal"}
"""Journal of an edit in place (`cca.patches.apply`), by the side of the patch that it writes."""
ITEM_SIZE = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
ITEM_SIZE |= {"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Dtypes a model is loaded in, safetensors' name to torch's."""
PICKLED = (".bin", ".pt", ".pth")
MOST_HEADER = 100_000_000  # what the safetensors library itself accepts


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: bytes ``start`` ... ``start + size`` of the file ``shard``."""

    name: str
    shard: str
    dtype: str  # safetensors' name, as BF16
    shape: tuple[int, ...]
    start: int
    size: int


class ShardFile:
    """One open file, read and, if ``writable``, written by position."""

    def __init__(self, path: Path, writable: bool = False) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR if writable else os.O_RDONLY)

    @property
    def length(self) -> int:
        return os.fstat(self.descriptor).st_size

    def read_at(self, start: int, size: int) -> bytes:
        data = bytearray(size)
        self.read_into(start, memoryview(data))
        return bytes(data)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from byte ``start`` on."""
        while buffer:  # a single call reads at most 2 GiB
            count = os.preadv(self.descriptor, [buffer], start)
            if not count:
                raise CcaError(f"{self.path}: ends before byte {start + len(buffer)}; it is truncated")
            start, buffer = start + count, buffer[count:]

    def write_at(self, start: int, data: memoryview) -> None:
        while data:
            written = os.pwrite(self.descriptor, data, start)
            start, data = start + written, data[written:]

    def sync(self) -> None:
        os.fsync(self.descriptor)

    def close(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True)
class Checkpoint:
    """The addresses of every tensor of a model folder."""

    folder: Path
    shards: tuple[str, ...]
    tensors: dict[str, StoredTensor]
    weight_files: tuple[str, ...] = ()
    """The shards, and their index where transformers reads one."""

    @property
    def config(self) -> dict[str, Any] | None:
        """``config.json``, or None where the folder has none."""
        return read_config(self.folder)

    def dtypes(self) -> dict[str, str]:
        """torch's name of each floating dtype stored -> the first tensor that is stored in it."""
        held = {tensor.dtype: name for name, tensor in reversed(self.tensors.items())}
        return {FLOATS.get(dtype, dtype): held[dtype] for dtype in held if dtype.startswith(("F", "BF"))}

    @contextmanager
    def open(self, shards: Sequence[str], writable: bool = False) -> Iterator[dict[str, ShardFile]]:
        """The open files of ``shards``, by name; closed at the end of the block."""
        with ExitStack() as stack:
            files: dict[str, ShardFile] = {}
            for shard in shards:
                path = self.folder / shard
                try:
                    files[shard] = ShardFile(path, writable)
                except OSError as error:
                    raise CcaError(f"{path}: cannot be opened ({error.strerror}); nothing was written") from error
                stack.callback(files[shard].close)
            yield files


def open_checkpoint(folder: Path | str, unfinished: bool = False) -> Checkpoint:
    """Read the headers of the files that transformers would load from a model folder.

    Raises CcaError for anything but a whole safetensors checkpoint, and, unless ``unfinished``, for one that
    an interrupted edit in place has left half-way.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CcaError(f"{folder}: expected a model folder, found {'a file' if folder.exists() else 'nothing'}")
    if not unfinished:
        refuse_half_edited(folder)
    chosen = choose_weights(str(folder), read_config(folder), sorted(path.name for path in folder.iterdir()))
    shards = [chosen]
    if chosen.endswith(".json"):
        shards = list_shards(f"{folder}/{chosen}", read_json(folder / chosen))
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        path = folder / shard
        try:
            file = ShardFile(path)
        except OSError as error:
            raise CcaError(f"{path}: a shard of the model cannot be read ({error.strerror})") from error
        try:
            add_tensors(tensors, str(path), shard, file)
        finally:
            file.close()
    return Checkpoint(folder, tuple(shards), tensors, (chosen, *shards))


def refuse_half_edited(folder: Path) -> None:
    """Raise CcaError for a model folder whose edit in place was interrupted: it holds neither of the two models."""
    for journal in JOURNALS.values():
        if (folder / journal).exists():
            raise CcaError(f"{folder}: an edit in place was interrupted ({journal}); repeat it to finish it")


def read_config(folder: Path) -> dict[str, Any] | None:
    """``config.json`` of a model folder, or None where there is none."""
    path = folder / "config.json"
    if not path.exists():
        return None
    config = read_json(path)
    if not isinstance(config, dict):
        raise CcaError(f"{path}: expected an object, got {type(config).__name__}")
    return config


def choose_weights(where: str, config: Mapping[str, Any] | None, files: Sequence[str]) -> str:
    """The file among ``files`` that transformers loads weights from: safetensors, or the index of shards.

    Its rule: ``transformers_weights`` of config.json, then model.safetensors, then the index, whatever else is there.
    """
    named = (config or {}).get("transformers_weights")
    if named is not None:
        plain = isinstance(named, str) and Path(named).name == named
        if not plain or not named.endswith((".safetensors", ".safetensors.index.json")):
            raise CcaError(
                f"{where}/config.json: expected 'transformers_weights' to name a safetensors file or index next to it, "
                f"got {named!r:.80}"
            )
        return named
    for name in (SINGLE, INDEX):
        if name in files:
            return name
    others = [name for name in files if name.endswith(PICKLED)]
    found = "pickled weights; save the model again as safetensors" if others else "neither"
    raise CcaError(f"{where}: expected {SINGLE} or {INDEX}, got {found}")


def list_shards(where: str, index: Any) -> list[str]:
    """The shard files that the parsed index ``where`` names. Raises CcaError for one that is malformed."""
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CcaError(f"{where}: expected a 'weight_map' of tensor names to shard files")
    shards = sorted(set(names.values()))
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CcaError(f"{where}: expected safetensors files next to it, got {shard!r}")
    return shards


def add_tensors(tensors: dict[str, StoredTensor], path: str, shard: str, file: ShardFile) -> None:
    """Parse one shard's header into ``tensors``. Raises CcaError for a damaged one."""
    header, begin = _header(path, file)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            numbers = [*shape, first, last]
            if not isinstance(dtype, str) or not all(type(number) is int and number >= 0 for number in numbers):
                raise TypeError
        except (TypeError, KeyError, ValueError) as error:
            raise CcaError(f"{path}: the header entry of {name!r} is malformed") from error
        size = ITEM_SIZE.get(dtype)
        fits = size is None or last - first == math.prod(shape) * size
        if not first <= last <= file.length - begin or not fits:
            raise CcaError(f"{path}: {name!r} does not fit the file; it is truncated or damaged")
        if name in tensors:
            raise CcaError(f"{path}: {name!r} is also in {tensors[name].shard}; expected it once")
        tensors[name] = StoredTensor(name, shard, dtype, shape, begin + first, last - first)


def _header(path: str, file: ShardFile) -> tuple[dict[str, Any], int]:
    """(the parsed header, the byte at which the data begins)."""
    if file.length < 8:
        raise CcaError(f"{path}: expected a safetensors file, got {file.length} bytes")
    size = int.from_bytes(file.read_at(0, 8), "little")
    if size > min(MOST_HEADER, file.length - 8):
        raise CcaError(f"{path}: expected a safetensors file, got one truncated or damaged in its header")
    try:
        header = json.loads(file.read_at(8, size))
    except (ValueError, RecursionError) as error:
        raise CcaError(f"{path}: expected a safetensors header, got {str(error)[:100]}") from error
    if not isinstance(header, dict):
        raise CcaError(f"{path}: expected a safetensors header, got {type(header).__name__}")
    return header, 8 + size


EACH = -1
"""The axis along which every scalar is a row."""
AXES = {1: (0,), 2: (0, 1, EACH), 3: (1, 2)}
"""Rank of a parameter -> the axes that rows may lie along."""
DTYPES = ("float64", "float32", "float16", "bfloat16")


def row_shape(shape: Sequence[int], axis: int) -> tuple[int, int]:
    """(number of rows, scalars in each) of a parameter of this shape."""
    total = math.prod(shape)
    rows = total if axis == EACH else shape[axis] * (shape[0] if len(shape) == 3 else 1)
    return rows, total // rows if rows else 0


def check_row_shapes(
    name: str,
    shape: Sequence[int],
    axis: int,
    indices: tuple[str, Sequence[int]],
    before: tuple[str, Sequence[int]],
    after: tuple[str, Sequence[int]],
) -> None:
    """Raise CcaError unless rows of these (dtype, shape) fit a parameter of ``shape`` along ``axis``."""
    if axis not in AXES.get(len(shape), ()):
        raise CcaError(f"{name}: a parameter of shape {list(shape)} has no rows along axis {axis}")
    if indices[0] != "int64" or len(indices[1]) != 1:
        raise CcaError(f"{name}: expected 1-D int64 indices, got {len(indices[1])}-D {indices[0]}")
    wanted = (indices[1][0], row_shape(shape, axis)[1])
    for what, (dtype, found) in (("before", before), ("after", after)):
        if tuple(found) != wanted:
            raise CcaError(f"{name}: expected {what!r} of shape {list(wanted)}, got {list(found)}")
        if dtype not in DTYPES:
            raise CcaError(f"{name}: expected {what!r} in float32, float16 or bfloat16, got {dtype}")
    if before[0] != after[0]:
        raise CcaError(f"{name}: 'before' is {before[0]}, 'after' {after[0]}; expected one dtype")


def check_range(name: str, shape: Sequence[int], axis: int, first: int, last: int) -> None:
    """Raise CcaError unless the row indices ``first`` ... ``last`` lie in a parameter of ``shape``."""
    count = row_shape(shape, axis)[0]
    if not 0 <= first <= last < count:
        raise CcaError(f"{name}: row indices must lie in 0 ... {count - 1}, got {first} ... {last}")

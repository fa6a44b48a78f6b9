"""Merging and verifying a patch on a big checkpoint: time against a plain copy, memory against the largest shard.

Makes a sharded bfloat16 checkpoint with random weights (Llama's names; no model is ever loaded), a patch that edits
1 % of the neurons of every layer (gate and up rows, down columns: the columns are the expensive part), then runs in
turn, each in a process of its own:

* a plain copy of the folder,
* ``merge`` to a new folder, which also checks rows and whole tensors first,
* ``verify`` of the base,
* ``apply --in-place`` and ``revert --in-place``.

Before every run the source is dropped from the page cache, and every time includes flushing what was written: disk
speed, not memory speed. Peak memory is that of a whole process, Python and torch included. Among the other benchmarks
a small checkpoint is taken; a big one is for this script alone:

    python -m benchmarks.patch_big_checkpoint --gigabytes 6 --shard-gigabytes 2 --runs 5
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring import Measured, Row, table
from cca.models.checkpoint import INDEX, open_checkpoint
from cca.patches.apply import verify, write_copy, write_in_place
from cca.patches.layout import Layout
from cca.patches.patch import Patch, TensorEdit
from cca.patches.patch_file import load_patch, save_patch
from cca.patches.stored_rows import read_rows, scan

HIDDEN, MLP = 2048, 8192
LAYER = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN // 4, HIDDEN),
    "self_attn.v_proj": (HIDDEN // 4, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (MLP, HIDDEN),
    "mlp.up_proj": (MLP, HIDDEN),
    "mlp.down_proj": (HIDDEN, MLP),
}
SHARE = 0.01  # of each layer's neurons
REACH = {"merge": 1.5, "memory": 1.2}
RUNS = 3
ROOT = Path(__file__).parents[1]


def make_checkpoint(folder: Path, gigabytes: float, shard_gigabytes: float) -> int:
    """Write the folder tensor by tensor; returns the bytes of its largest shard."""
    folder.mkdir()
    layer_bytes = sum(2 * rows * columns for rows, columns in LAYER.values())
    layers = max(1, round(gigabytes * 1e9 / layer_bytes))
    tensors = [(f"model.layers.{i}.{name}.weight", shape) for i in range(layers) for name, shape in LAYER.items()]
    shards: list[list[tuple[str, tuple[int, int]]]] = [[]]
    for tensor in tensors:
        if shards[-1] and 2 * sum(a * b for _, (a, b) in [*shards[-1], tensor]) > shard_gigabytes * 1e9:
            shards.append([])
        shards[-1].append(tensor)
    random, where, largest = np.random.default_rng(0), {}, 0
    for number, held in enumerate(shards, start=1):
        path = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header, offset = {}, 0
        for name, (rows, columns) in held:
            end = offset + 2 * rows * columns
            header[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [offset, end]}
            offset, where[name] = end, path.name
        encoded = json.dumps(header).encode()
        with path.open("wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for _, shape in held:  # any sign and mantissa, exponents of weights between 2**-7 and 2**-5
                numbers = random.integers(0, 1 << 16, shape, dtype=np.uint16)
                file.write(((numbers & 0x80FF) | 0x3C00).tobytes())
        largest = max(largest, path.stat().st_size)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return largest


def make_patch(folder: Path) -> Patch:
    checkpoint, random, edits = open_checkpoint(folder), torch.Generator().manual_seed(0), []
    layout = Layout(checkpoint)
    hashes, shapes = {}, {}
    with checkpoint.open(checkpoint.shards) as files:
        for name, tensor in sorted(checkpoint.tensors.items()):
            if ".mlp." not in name:
                continue
            (stored,) = layout.find(name, tensor.shape)
            axis = 1 if "down_proj" in name else 0
            indices = torch.randperm(MLP, generator=random)[: int(SHARE * MLP)].sort().values
            blank = torch.empty(len(indices), HIDDEN, dtype=torch.bfloat16)
            before = read_rows(stored, TensorEdit(name, axis, indices, blank, blank), files)
            edit = TensorEdit(name, axis, indices, before, before * 1.25)
            edits.append(edit)
            hashes[name], shapes[name] = scan(stored, edit, files)[1], tensor.shape
    return Patch(tuple(edits), "random/weights", None, hashes, shapes)


WORK: dict[str, Callable[[Path, Path, Path], object]] = {
    "copy": lambda base, _, out: shutil.copytree(base, out),
    "merge": lambda base, patch, out: write_copy(base, load_patch(patch), out),
    "verify": lambda base, patch, _: verify(base, load_patch(patch)),
    "apply in place": lambda base, patch, _: write_in_place(base, load_patch(patch), "after"),
    "revert in place": lambda base, patch, _: write_in_place(base, load_patch(patch), "before"),
}


def child(what: str, base: Path, patch: Path, out: Path) -> None:
    start = time.perf_counter()
    WORK[what](base, patch, out)
    for path in out.glob("*") if out.exists() else []:
        flush(path, drop=False)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    print(json.dumps({"seconds": seconds, "peak": peak}))


def flush(path: Path, drop: bool) -> None:
    """Write the file's pages to the disk and, if ``drop``, forget them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if drop:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def timed(what: str, base: Path, patch: Path, out: Path) -> dict[str, float]:
    for path in base.iterdir():
        flush(path, drop=True)
    command = [
        sys.executable,
        "-m",
        "benchmarks.patch_big_checkpoint",
        "--child",
        what,
        str(base),
        str(patch),
        str(out),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    result = json.loads(done.stdout)
    shutil.rmtree(out, ignore_errors=True)
    return result


def measure(
    gigabytes: float = 2.0, shard_gigabytes: float = 1.0, pairs: int = RUNS, folder: Path | None = None
) -> list[Row]:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        base, patch, out = (Path(temporary) / name for name in ("base", "patch.safetensors", "out"))
        largest = make_checkpoint(base, gigabytes, shard_gigabytes)
        save_patch(patch, make_patch(base))
        total = sum(path.stat().st_size for path in base.iterdir())
        runs = [{what: timed(what, base, patch, out) for what in WORK} for _ in range(pairs)]
    speeds = Measured(tuple(total / 1e9 / run["copy"]["seconds"] for run in runs))
    shards = f"{total / 1e9:.2f} GB in bfloat16, largest shard {largest / 1e9:.2f} GB"
    about = f"{shards}; plain copy at {speeds.median:.2f} GB/s"
    rows = [
        Row(
            f"{what}, time", "plain copy of the folder, flushed",
            Measured(tuple(run[what]["seconds"] / run["copy"]["seconds"] for run in runs)),
            ("<=", REACH["merge"]) if what == "merge" else None, about,
        )
        for what in list(WORK)[1:]
    ]  # fmt: skip
    for what in ("merge", "verify"):
        peaks = Measured(tuple(run[what]["peak"] / largest for run in runs))
        rows.append(Row(f"{what}, peak memory", "the largest shard", peaks, ("<=", REACH["memory"]), about))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--shard-gigabytes", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work; twice the checkpoint is needed")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], *map(Path, given.child[1:]))
        return
    print(table(measure(given.gigabytes, given.shard_gigabytes, given.runs, given.folder), markdown=False))


if __name__ == "__main__":
    main()

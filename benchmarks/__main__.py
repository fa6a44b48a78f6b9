"""``python -m benchmarks [name ...]``: measure the claims of speed and memory, each against a naive implementation.

Prints median, minimum and maximum of paired runs, and whether the median reaches what is claimed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path

NAMES = ("coverage", "branching", "masking", "amplify", "drafts", "memory", "decoding", "patch_big_checkpoint", "demo")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="which (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/performance.md")
    parser.add_argument("--model", help="a model folder for `decoding` (default: random weights)")
    parser.add_argument("--dtype", default="float32", help="of that model (default: float32)")
    options = parser.parse_args()

    import torch

    from benchmarks.measuring import Row, table

    torch.set_num_threads(options.threads)
    print(machine(options.threads), flush=True)
    rows: list[Row] = []
    start = time.perf_counter()
    for name in options.names or NAMES:
        given = [options.model, options.dtype] if name == "decoding" else []
        found = importlib.import_module(f"benchmarks.{name}").measure(*given)
        rows += found
        if not options.markdown:
            print(f"\n{name}\n{table(found, markdown=False)}", flush=True)
    if options.markdown:
        print(f"\n{table(rows, markdown=True)}")
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    return int(not all(row.sound for row in rows))


def machine(threads: int) -> str:
    """The date, the machine and the versions that the numbers belong to."""
    import torch
    import transformers

    cpu, information = platform.machine(), Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return (
        f"{date.today().isoformat()}, {cpu}, {os.cpu_count()} cores, {threads} threads, float32; "
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    )


if __name__ == "__main__":
    sys.exit(main())

"""``python -m benchmarks.organisms train NAME | problems [NAME ...]``: make model organisms and their problems."""

from __future__ import annotations

import argparse
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    from benchmarks.organisms import ORGANISMS
    from benchmarks.organisms.trainer import train
    from cca.problems.problem import write_problems

    parser = argparse.ArgumentParser(prog="python -m benchmarks.organisms", description=__doc__)
    parser.add_argument("what", choices=["train", "problems"])
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(ORGANISMS)} (problems: default all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of folders (default: models/ and problems/ here)")
    given = parser.parse_args()
    if given.what == "train" and not given.names:
        parser.error("name what to train")
    for name in given.names or ORGANISMS:
        if name not in ORGANISMS:
            parser.error(f"expected one of {', '.join(ORGANISMS)}, got {name!r}")
        organism = ORGANISMS[name]
        if given.what == "train":
            out = (given.out or HERE / "models") / name
            train(organism, out, given.seed, lambda line: print(line, flush=True))
        else:
            out = (given.out or HERE / "problems") / name
            for split, own in organism.problems(given.seed).items():
                write_problems(out / f"{split}.jsonl", own)
        print(f"{out} is written", flush=True)


if __name__ == "__main__":
    main()

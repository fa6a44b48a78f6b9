"""``python -m benchmarks.organisms train NAME | problems [NAME ...]``: make model organisms and their problems."""

from __future__ import annotations

import argparse
from pathlib import Path

HERE = Path(__file__).parent
BUNDLED = "tinymath"


def main() -> None:
    from benchmarks.organisms import ORGANISMS

    names = [*ORGANISMS, BUNDLED]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.organisms", description=__doc__)
    parser.add_argument("what", choices=["train", "problems"])
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(names)} (problems: default all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of folders (default: models/ and problems/ here)")
    given = parser.parse_args()
    if given.what == "train" and not given.names:
        parser.error("name what to train")
    for name in given.names or names:
        if name not in names:
            parser.error(f"expected one of {', '.join(names)}, got {name!r}")
        out = (given.out or HERE / ("models" if given.what == "train" else "problems")) / name
        (_train if given.what == "train" else _write_problems)(name, out, given.seed)
        print(f"{out} is written", flush=True)


def _train(name: str, out: Path, seed: int) -> None:
    from benchmarks.organisms import ORGANISMS, tinymath, trainer

    def say(line: str) -> None:
        print(line, flush=True)

    if name != BUNDLED:
        trainer.train(ORGANISMS[name], out, seed, say)
        return
    tinymath.train(
        out,
        tinymath.Recipe(seed=seed),
        lambda step, loss: say(f"step {step + 1:5d}  loss {loss:.3f}") if step % 100 == 99 else None,
    )


def _write_problems(name: str, out: Path, seed: int) -> None:
    from benchmarks.organisms import ORGANISMS
    from cca.problems.problem import write_problems
    from cca.tinymath.task import load

    if name == BUNDLED:
        task = load(seed)
        splits = {"train": task.train, "validation": task.validation, "test": task.test, **task.retention}
    else:
        splits = ORGANISMS[name].problems(seed)
    for split, problems in splits.items():
        write_problems(out / f"{split}.jsonl", problems)


if __name__ == "__main__":
    main()

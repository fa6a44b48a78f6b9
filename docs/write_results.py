"""Write docs/results.md from compare.json files: python docs/write_results.py --title Small runs/compare/compare.json

The prose comes from docs/results_preface.md where there is one; every number comes from the files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cca.compare.markdown import read_result, results_page
from cca.files import write_text

HERE = Path(__file__).parent
PREFACE = """# Which circuit, which objective

Written by `docs/write_results.py` from the `compare.json` files of `cca compare`; nothing here is typed by hand.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="compare.json files")
    parser.add_argument("--title", action="append", default=[], help="heading of each, in order")
    parser.add_argument("--out", type=Path, default=HERE / "results.md")
    given = parser.parse_args()
    preface = HERE / "results_preface.md"
    titles = [*given.title, *(path.parent.name for path in given.results[len(given.title) :])]
    found = {title: read_result(path) for title, path in zip(titles, given.results, strict=True)}
    write_text(given.out, results_page(found, preface.read_text() if preface.exists() else PREFACE))


if __name__ == "__main__":
    main()

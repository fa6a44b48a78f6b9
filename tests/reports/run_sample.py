"""A run folder as the stages leave it, from made-up numbers that hang together, to be bent by each test."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cca.files import Row, read_json, write_json
from cca.reports.report import make_report

TEMPLATES = (
    "01_gain_lose 02_two_friends 03_boxes_eaten 04_price_change 05_bus 06_rows 07_reading 08_twice 09_earn 10_fewer "
    "11_three_jars 12_team_points 13_two_kinds 14_garden 15_savings 16_ages 17_four_stops 18_party 19_shop_stock "
    "20_shelves 21_walk 22_teams 23_gift 24_bakery"
).split()
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='x",
    "</title><script>",
    "{{ 7 * 7 }}",
    "\u202egnp.exe",
    "سلام دنیا",
    "\x1b[31mred\x1b[0m",
    "a\x00b\x07",
    "\ufffe no character",
    "[bold red]x[/bold red]",
    "w" * 5000,
]


def gain(points: float, low: float, high: float, p_value: float = 3.2e-61) -> Row:
    return {"points": points, "interval": [low, high], "p_value": p_value, "gained": 341, "lost": 23}


def measured(templates: list[str]) -> Row:
    """What the evaluate stage writes."""
    generator = random.Random(4)
    rows = []
    for name in templates:
        base = generator.uniform(0.35, 0.9)
        patched = min(1.0, base + generator.uniform(-0.05, 0.45))
        rows.append({"template": name, "problems": 48, "base": round(base, 3), "patched": round(patched, 3)})
    retention = {
        name: {
            "base": base, "patched": patched, "points": 100 * (patched - base), "interval": ends, "p_value": 1.0,
            "gained": round(max(0, 200 * (patched - base))), "lost": round(max(0, 200 * (base - patched))),
            "problems": 200, "drift": drift,
        }
        for name, base, patched, ends, drift in [
            ("facts", 0.995, 0.995, [-1.5, 1.5], 4.1e-7),
            ("reversal", 0.985, 0.98, [-1.5, 0.5], 2.2e-6),
            ("multiple choice", 1.0, 1.0, [-1.5, 1.5], 8.8e-6),
            ("sorting", 0.96, 0.965, [0.0, 1.5], 1.3e-6),
        ]
    }  # fmt: skip
    draw = {
        "patched": {"accuracy": 0.694, "interval": [0.62, 0.76], "unreadable": 0.01, "problems": 1152},
        "gain": gain(2.2, -1.4, 5.9, 0.071), "unseen_templates": None, "drift": {"kl": 8.4e-4, "tokens": 9120},
        "retention": retention, "best_step": 6, "matched": {"step": 14, "drift": 9.3e-4},
        "circuit": "00aa11bb22cc33dd",
    }  # fmt: skip
    seen = {"problems": 864, "templates": 18, "base": 0.68, "patched": 0.955, "gain": gain(27.5, 21.9, 33.0)}
    unseen = {"problems": 288, "templates": 6, "base": 0.648, "patched": 0.927, "gain": gain(27.9, 17.0, 39.2)}
    planted = {"planted": 480, "found": 60, "precision": 0.93, "recall": 0.71, "precision_of_place": 0.96}
    matched = {"reached": 1, "drift": 9.3e-4, "patch": 3.4e-6}
    return {
        "base": {"accuracy": 0.672, "interval": [0.61, 0.73], "unreadable": 0.004, "problems": 1152},
        "patched": {"accuracy": 0.948, "interval": [0.92, 0.97], "unreadable": 0.002, "problems": 1152},
        "gain": gain(27.6, 22.4, 32.9), "seen_templates": seen, "unseen_templates": unseen, "templates": rows,
        "drift": {"kl": 3.1e-6, "tokens": 9120}, "retention": retention,
        "share": {"components": 0.0192, "heads": 0.0, "neurons": 0.0195, "parameters": 0.0046},
        "circuit": {"components": 30, "method": "attribution:absolute"},
        "pivots": {"count": 60, "planted": planted},
        "controls": {"random": {
            "draws": [draw], "gain": {"points": 2.2}, "drift": {"kl": 8.4e-4}, "matched": matched,
        }},
        "anatomy": {"layers": [{"q": 4, "k": 2, "v": 2, "neuron": 384} for _ in range(4)]},
    }  # fmt: skip


def history(steps: int = 14, best: int = 10) -> Row:
    records = []
    for step in range(steps + 1):
        drift = 0.0 if step == 0 else 1.5e-7 * math.exp(0.42 * step)
        accuracy = 0.67 + 0.28 * (1 - math.exp(-step / 4)) - 0.0022 * max(0, step - best) ** 2
        validation = {
            "accuracy": round(accuracy, 4), "drift": drift, "in_budget": drift < 3e-5,
            "retention": {"facts": 0.99, "reversal": 0.985 - (0.005 if step > 8 else 0)},
        }  # fmt: skip
        start, gap = (None, None) if step == 0 else (0.71 - 0.04 * step, -0.4 + 0.13 * step)
        records.append({"step": step, "objective": start, "logit_gap": gap, "validation": validation})
    return {"best_step": best, "coefficient": 4.31e-3, "history": records}


def report(templates: list[str] | None = None, **changes: Any) -> Row:
    """A report.json; ``changes`` replace top-level keys."""
    config = {
        "model": "tinymath", "task": "tinymath", "retention": [], "preset": "default", "seed": 0, "judge": "auto",
        "circuit": {"localiser": "attribution", "size": "0.5% of parameters"},
        "amplify": {"objective": "softplus", "steps": 40, "budget": {"points": 1.0, "drift": 3e-5}},
    }  # fmt: skip
    manifest = {
        "config": config,
        "versions": {"python": "3.11.2", "cca": "0.1.0", "torch": "2.13.0", "transformers": "5.19.0"},
        "hardware": {"machine": "x86_64", "processors": 2, "threads": 2},
        "fingerprints": {"model": "aaaa000011112222", "task": "bbbb000011112222"},
    }
    seconds = {"traces": 41.32, "pivots": 18.7, "circuit": 1.9, "amplify": 62.4, "evaluate": 25.0, "controls": 71.8}
    tokens = (412931, 81022, 0, 240311, 91000, 310777)
    timing = {
        stage: {"seconds": own, "tokens": count}
        for (stage, own), count in zip(seconds.items(), tokens, strict=True)
    }  # fmt: skip
    found = make_report(manifest, measured(TEMPLATES), history(), timing) | {"fingerprint": "0123456789abcdef"}
    rows = found["templates"] if templates is None else measured(templates)["templates"]
    return {**found, "templates": rows, **changes}


def circuit_rows(layers: int = 4, neurons: int = 384, count: int = 30, heads: int = 0) -> list[Row]:
    generator = random.Random(1)
    chosen = {f"L{generator.randrange(layers)}.neuron{generator.randrange(neurons)}" for _ in range(count)}
    some = generator.randrange
    chosen |= {f"L{some(layers)}.{generator.choice('qkv')}{some(2)}" for _ in range(heads)}
    return [{"component": name, "score": generator.expovariate(3)} for name in sorted(chosen)]


def pivot_rows(count: int = 60, templates: list[str] | None = None) -> list[Row]:
    names = TEMPLATES if templates is None else templates
    return [
        {
            "problem": f"{names[i % len(names)]}-{i}", "template": names[i % len(names)], "prompt": [1, 2, 3],
            "prefix": [4] * (i % 7), "desired": 7, "undesired": 8, "greedy_right": i % 3 == 0,
            "method": "branching", "sample": 1,
        }
        for i in range(count)
    ]  # fmt: skip


def text_rows(count: int = 50, templates: list[str] | None = None, **changes: str) -> list[Row]:
    """Rows of pivots_text.jsonl."""
    texts = {
        "prompt_text": "Q: Tom has 12 apples. He buys 30 more and gives 18 away. How many has he now? A:",
        "prefix_text": " First Tom has 12 + 30 = 42 apples. Then he has 42",
        "desired_text": " -",
        "undesired_text": " +",
    }
    kept = ("problem", "template", "greedy_right")
    return [{**{key: row[key] for key in kept}, **texts, **changes} for row in pivot_rows(count, templates)]


def write_run(
    folder: Path,
    whole: Mapping[str, Any] | None = None,
    *,
    circuit: list[Row] | None = None,
    pivots: list[Row] | None = None,
    texts: list[Row] | None = None,
) -> Path:
    """A finished run's folder, as far as its page reads it."""
    found = dict(report() if whole is None else whole)
    write_json_as_is(folder / "report.json", found)
    manifest = {
        "format": "cca.run", "version": 1, "created": "2026-05-04T10:20:30+00:00",
        **{key: found.get(key) for key in ("config", "versions", "hardware")}, "fingerprints": found.get("made_from"),
    }  # fmt: skip
    write_json_as_is(folder / "manifest.json", manifest)
    write_json_as_is(folder / "timing.json", found.get("timing"))
    write_circuit(folder, circuit_rows() if circuit is None else circuit)
    write_lines(folder / "pivots.jsonl", "cca.pivots", pivot_rows() if pivots is None else pivots)
    write_lines(folder / "pivots_text.jsonl", "cca.pivot-texts", text_rows() if texts is None else texts)
    return folder


def write_circuit(folder: Path, rows: list[Row], method: str = "attribution:absolute") -> None:
    write_lines(folder / "circuit.jsonl", "cca.circuit", rows, method=method)


def write_lines(path: Path, format: str, rows: list[Row], **header: str) -> None:
    """Like `cca.files.write_rows`, in ASCII: a lone surrogate is legal JSON, but not UTF-8."""
    lines = [json.dumps(row) for row in ({"format": format, "version": 1, "made_from": "x", **header}, *rows)]
    path.write_text("\n".join(lines) + "\n")


def write_json_as_is(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def edit_report(folder: Path, **changes: Any) -> None:
    write_json(folder / "report.json", {**read_json(folder / "report.json"), **changes})

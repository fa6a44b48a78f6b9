"""A whole run in about a second: the tiny random model on problems that it sometimes gets right.

The judge looks for a pattern that about half of all random texts hold, so greedy traces and samples differ in verdict.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

import tiny_world

GOLD = "w"
PATTERN = r"^(?=.*w1[0-5])(w)|^w"
"""Captures the gold answer in a text with such a word, nothing in any other, wherever the text is cut off."""
SIZES = {"train": 12, "validation": 5, "test": 6, "other": 6}


def make(folder: Path, **changes: Any) -> Path:
    """Write model, problems and run.yaml into ``folder``; returns run.yaml. ``changes`` go over its keys."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_world.model(dtype=torch.float32).save_pretrained(folder / "model")
    tiny_world.tokenizer().save_pretrained(folder / "model")
    for seed, (name, count) in enumerate(SIZES.items()):
        rows = [
            {"id": f"{name}-{p.id}", "template": f"t{i % 3}", "prompt": p.prompt, "answer": GOLD}
            for i, p in enumerate(tiny_world.problems(count, seed))
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return write_config(folder, **changes)


def write_config(folder: Path, name: str = "run", **changes: Any) -> Path:
    config = {
        "model": str(folder / "model"),
        "task": {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")},
        "retention": [str(folder / "other.jsonl")],
        "judge": {"name": "regex", "pattern": PATTERN},
        "out": str(folder / "out"),
        "traces": {"max_new_tokens": 5, "samples": 4, "chunk": 4, "batch_size": 8},
        "circuit": {"localiser": "selective", "size": 6},
        "amplify": {"steps": 3, "predicted_change": 1.0, "budget": {"points": 100, "drift": 10}},
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run found, without times."""
    report = json.loads((folder / "report.json").read_text())
    for varies in ("timing", "hardware", "plan"):
        report.pop(varies, None)
    names = ("traces.jsonl", "pivots.jsonl", "circuit.jsonl", "amplify.json", "evaluation.json", "patch.safetensors")
    return {"report": report, **{name: (folder / name).read_bytes() for name in names}}

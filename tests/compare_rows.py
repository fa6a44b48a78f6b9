"""Rows of arms as a comparison logs them, from short histories."""

from __future__ import annotations

from cca.compare.combine import best_step
from cca.files import Row


def history(*steps: tuple[float, float]) -> list[Row]:
    """(accuracy, drift) of each step; a drift above 1 is over the budget."""
    return [
        {"step": n, "accuracy": a, "drift": d, "drifts": {"other": d}, "in_budget": d <= 1, "seconds": float(n),
         "tokens": 10 * n, "objective": None, "logit_gap": None}
        for n, (a, d) in enumerate(steps)
    ]  # fmt: skip


def answers(accuracy: float, problems: int = 100) -> str:
    right = round(accuracy * problems)
    return "1" * right + "0" * (problems - right)


def row(label: str, steps: list[Row], seed: int = 0, control: str | None = None, draw: int | None = None) -> Row:
    ends = best_step(steps), best_step(steps, within_budget=False)
    templates = [
        {"template": "t", "problems": 100, "base": steps[0]["accuracy"], "patched": step["accuracy"],
         "before": answers(steps[0]["accuracy"]), "after": answers(step["accuracy"])}
        for step in ends
    ]  # fmt: skip
    return {
        "key": f"{label}{seed}{draw}", "model": "m", "seed": seed, "label": label, "entry": label.split(":")[0],
        "control": control, "draw": draw, "failed": None, "history": steps, "pivots": 5, "base": steps[0]["accuracy"],
        "parameters": 3, "total_parameters": 100, "circuit": None, "seconds": {"locate": 2.0, "train": 1.0},
        "templates": {"best": [templates[0]], "any": [templates[1]]}, "test": None,
    }  # fmt: skip

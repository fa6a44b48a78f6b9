"""Claims: the figures of a run's report, shown with its patch and on its model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca.errors import CcaError
from cca.files import as_json, read_json

if TYPE_CHECKING:
    from cca.patches.patch import Patch

REPORT = "report.json"
SAME = ("model", "task", "seed", "amplify")
"""Keys of the configuration in which a patch and the report of its run agree."""
KEPT = {
    "base": ("accuracy",),
    "patched": ("accuracy",),
    "gain": ("points", "interval", "p_value"),
    "share": ("components", "heads", "neurons", "parameters"),
    "drift": ("kl",),
}
KEPT_OF_A_SKILL = ("base", "patched", "interval")
CARD = """---
base_model: {quoted}
base_model_relation: adapter
tags:
- cca
- weight-patch
---

# {title}

A patch for `{base}`: it edits {weights:,} weights in {tensors} tensors and leaves every other bit of the model as it
is. Made by constructive circuit amplification (arXiv 2512.16914).

{figures}

## Use

```bash
cca patch pull {repo} --out patch.safetensors
cca patch merge {base_model} patch.safetensors --out merged   # a plain checkpoint for any server
```

```python
import cca

patch = cca.load_patch("patch.safetensors")
with patch.applied(model):  # a transformers model of {base}
    ...
```

The patch refuses any other base, and `patch.revert(model)` restores the base to the bit. Digest `{digest}`.
"""


def read_report(path: Path) -> dict[str, Any]:
    """A run's report.json. Raises CcaError for another file."""
    report = read_json(path)
    if not isinstance(report, dict) or not isinstance(report.get("gain"), dict):
        raise CcaError(f"{path}: expected the report.json of a run, with a 'gain', got another file")
    return report


def report_next_to(patch: Path, made_by: dict[str, Any]) -> dict[str, Any] | None:
    """The report next to a patch file, unless ``made_by`` of the patch says that another run made it.

    A run writes its patch before anything is measured and never changes it, so the figures are read from its report.
    """
    path = patch.parent / REPORT
    if not path.is_file():
        return None
    try:
        report = read_report(path)
    except CcaError:
        return None
    config, amplify = _section(report, "config"), _section(report, "amplify")
    known = [(key, value, config) for key, value in _section(made_by, "config").items() if key in SAME]
    known += [("best_step", made_by["best_step"], amplify)] if "best_step" in made_by else []
    return report if all(where.get(key) == value for key, value, where in known) else None


def with_claims(made_by: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """A patch's ``made_by`` with the report's figures as its ``claims``."""
    held = {name: value for name, value in report.items() if isinstance(value, Mapping)}
    claims: dict[str, Any] = {name: _kept(held[name], keys) for name, keys in KEPT.items() if name in held}
    if "retention" in held:
        skills = held["retention"].items()
        claims["retention"] = {n: _kept(own, KEPT_OF_A_SKILL) for n, own in skills if isinstance(own, Mapping)}
    claims["fingerprint"] = report.get("fingerprint")
    return as_json("made_by", {**made_by, "claims": claims})


def _kept(held: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: held[key] for key in keys if key in held}


def without_claims(patch: Patch) -> Patch:
    """The patch as it was before `with_claims`, to the byte."""
    return replace(patch, made_by={key: value for key, value in patch.made_by.items() if key != "claims"})


def figures(made_by: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, figure) lines of what a patch claims; empty where it claims nothing. Claims are text from a stranger."""
    claims = _section(made_by, "claims")
    lines: list[tuple[str, str]] = []
    base, patched, gain = (_section(claims, name) for name in ("base", "patched", "gain"))
    if _number(gain.get("points")):
        measured = f"{gain['points']:+.1f} points{_interval(gain.get('interval'))}"
        if _number(base.get("accuracy")) and _number(patched.get("accuracy")):
            measured += f", {base['accuracy']:.1%} to {patched['accuracy']:.1%}"
        if _number(gain.get("p_value")):
            measured += f", p = {gain['p_value']:.2g}"
        lines.append(("gain", measured))
    share = _section(claims, "share")
    parts = [f"{share[key]:.3%} of {key}" for key in ("parameters", "neurons", "heads") if _number(share.get(key))]
    if parts:
        lines.append(("share edited", ", ".join(parts)))
    drift = _section(claims, "drift")
    if _number(drift.get("kl")):
        lines.append(("drift elsewhere", f"{drift['kl']:.2g} nats a token"))
    for name, held in _section(claims, "retention").items():
        if isinstance(held, dict) and _number(held.get("base")) and _number(held.get("patched")):
            change = f"{held['base']:.1%} to {held['patched']:.1%}{_interval(held.get('interval'))}"
            lines.append((f"retention, {_plain(name)}", change))
    return lines


MEASURED = "Paired with the base on the same problems; 95 % intervals and p-values over templates."


def model_card(patch: Patch, repo: str) -> str:
    """README.md of a hub repository with this patch."""
    from cca.patches.patch_file import digest  # which needs torch, as showing a patch must not

    table = "\n".join(f"| {what} | {figure} |" for what, figure in figures(patch.made_by))
    if table:
        table = f"| | |\n|---|---|\n{table}\n\n{MEASURED}"
    return CARD.format(
        base_model=_plain(patch.base_model),
        quoted=json.dumps(_plain(patch.base_model)),
        base=_plain(patch.base),
        title=repo.rpartition("/")[2],
        repo=repo,
        weights=patch.parameters_changed,
        tensors=len(patch.edits),
        figures=table or "No figures were published with this patch.",
        digest=digest(patch),
    )


def _section(claims: Mapping[str, Any], name: str) -> dict[str, Any]:
    held = claims.get(name)
    return held if isinstance(held, dict) else {}


def _number(value: Any) -> bool:
    """True for a number that can be printed: JSON also spells integers beyond every float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18


def _interval(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2 and all(_number(end) for end in value):
        return f" [{value[0]:+.1f}, {value[1]:+.1f}]"
    return ""


def _plain(text: str) -> str:
    """Without what would end a line, a table cell or a code span, or steer a terminal."""
    printable = "".join(sign if sign.isprintable() else " " for sign in text)
    return " ".join(printable.replace("|", "/").replace("`", "'").split())

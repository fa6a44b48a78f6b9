"""What a patch touches, counted: by layer and kind of weight, by kind of component."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from cca.errors import CcaError
from cca.models.anatomy.components import Component
from cca.models.bits import dtype_name
from cca.patches.algebra import kind_of, layer_of
from cca.patches.patch import Patch
from cca.patches.patch_file import to_bytes


@dataclass(frozen=True)
class Summary:
    rows: dict[tuple[int | None, str], int]  # (layer, kind) -> rows or columns edited
    layers: list[int | None]  # None: outside the layers
    kinds: list[str]
    weights: int
    tensors: int
    dtypes: list[str]
    components: dict[str, int]  # kind of component -> how many
    bytes: int


def summarise(patch: Patch) -> Summary:
    rows: Counter[tuple[int | None, str]] = Counter()
    for edit in patch.edits:
        rows[layer_of(edit.parameter), kind_of(edit.parameter)] += edit.indices.numel()
    layers = {layer for layer, _ in rows}
    return Summary(
        dict(rows),
        sorted(layers, key=lambda layer: (layer is None, layer or 0)),
        list(dict.fromkeys(kind_of(edit.parameter) for edit in patch.edits)),
        patch.parameters_changed,
        len(patch.edits),
        sorted({dtype_name(edit.before) for edit in patch.edits}),
        dict(Counter(_component_kind(name) for name in patch.circuit)),
        len(to_bytes(patch)),
    )


def _component_kind(name: str) -> str:
    try:
        return Component.parse(name).kind
    except CcaError:
        return "other"

"""The anatomy of a causal language model: where each Q, K and V head and each MLP neuron is stored.

Components stand in one flat order, layer by layer, in a layer q, k, v, neuron: a gate vector, a score vector
and a circuit all have ``size`` entries in that order. The model is read as it is, never re-implemented.
`anatomy_of` checks what it returns, so a wrong reading fails on load with the name of the field to declare.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cca.errors import CcaError
from cca.models.anatomy.components import KINDS, Component
from cca.models.anatomy.declarations import Declaration, declaration_for
from cca.models.anatomy.layer import LayerAnatomy, read_layer
from cca.models.anatomy.layer_reader import LayerReader, at
from cca.models.anatomy.weight_rows import WeightRows
from cca.models.checkpoint import EACH, row_shape

MODES: dict[str, tuple[str, ...]] = {
    "paper": ("q", "k", "v", "up"),
    "full": ("q", "k", "v", "o", "up", "gate", "down"),
    "up": ("up",),
}
"""Row mode -> roles whose rows a component owns: the paper's (section 3.3), all, or the up rows of neurons alone."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    model_type: str
    layers: tuple[LayerAnatomy, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Shapes of the parameters that hold components."""
    total_parameters: int
    """Scalars in the model, tied weights counted once."""

    @cached_property
    def _spans(self) -> dict[tuple[int, str], slice]:
        counts = {(layer.index, kind): layer.count(kind) for layer in self.layers for kind in KINDS}
        stops = accumulate(counts.values())
        return {key: slice(stop - counts[key], stop) for key, stop in zip(counts, stops, strict=True)}

    @cached_property
    def _ordered(self) -> list[tuple[tuple[int, str], slice]]:
        return list(self._spans.items())

    @cached_property
    def interface(self) -> bool:
        """True when every attention goes through transformers' AttentionInterface (`LayerAnatomy.interface`)."""
        return all(layer.interface for layer in self.layers if layer.attention is not None)

    @cached_property
    def size(self) -> int:
        """Number of components."""
        return self._ordered[-1][1].stop

    def count(self, layer: int, kind: str) -> int:
        return self.layers[layer].count(kind)

    def span(self, layer: int, kind: str) -> slice:
        """The components of this kind and layer within a flat (size,) vector."""
        return self._spans[layer, kind]

    def index(self, component: Component) -> int:
        """Flat index. Raises CcaError when the model has no such component."""
        span = self._spans.get((component.layer, component.kind))
        if span is None or not 0 <= component.index < span.stop - span.start:
            there = f"{span.stop - span.start} of that kind in that layer" if span else f"{len(self.layers)} layers"
            raise CcaError(f"component {component}: this {self.model_type} model has {there}")
        return span.start + component.index

    def component(self, flat_index: int) -> Component:
        """The inverse of `index`."""
        if not 0 <= flat_index < self.size:
            raise CcaError(f"component number {flat_index}: expected 0 to {self.size - 1}")
        (layer, kind), span = self._ordered[bisect_right(self._ordered, flat_index, key=lambda item: item[1].stop)]
        return Component(layer, kind, flat_index - span.start)

    def components(self, kinds: Collection[str] = KINDS) -> Iterator[Component]:
        """All components of these kinds, in flat order."""
        for (layer, kind), span in self._spans.items():
            if kind in kinds:
                for index in range(span.stop - span.start):
                    yield Component(layer, kind, index)

    def rows(self, components: Iterable[Component] | Tensor, mode: str = "paper") -> tuple[WeightRows, ...]:
        """The rows that ``components`` own, one entry per parameter and axis, in the order of the layers.

        ``components`` may also be a flat mask (size,) of bool or flat indices (k,) of int64. In mode ``up`` heads own
        nothing. No row has two owners, so the rows of a union are the union of the rows. Raises CcaError for an unknown
        mode or component.
        """
        if mode not in MODES:
            raise CcaError(f"rows: expected one of {', '.join(MODES)}, got {mode!r}")
        return self.rows_of_roles(components, MODES[mode])

    def rows_of_roles(self, components: Iterable[Component] | Tensor, roles: Collection[str]) -> tuple[WeightRows, ...]:
        """The rows, as of `rows`, that ``components`` own in weights of these roles."""
        chosen = self._mask(components)
        owned: dict[tuple[str, int], list[Tensor]] = {}
        for layer in self.layers:
            for pattern in layer.patterns:
                if pattern.role not in roles:
                    continue
                units = chosen[self.span(layer.index, pattern.kind)].nonzero().squeeze(1) - pattern.first
                units = units[(units >= 0) & (units < pattern.n)]
                if not len(units):
                    continue
                indices = pattern.indices(units).flatten()
                owned.setdefault((pattern.weight, pattern.axis), []).append(indices)
                if pattern.bias is not None:
                    axis = EACH if len(self.shapes[pattern.bias]) > 1 else 0
                    owned.setdefault((pattern.bias, axis), []).append(indices)
        return tuple(
            WeightRows(name, axis, torch.cat(parts).unique(sorted=True)) for (name, axis), parts in owned.items()
        )

    def owners(self, row: WeightRows) -> Tensor:
        """The flat indices (k,) of the components that own the rows, as `rows` gives them."""
        shape = self.shapes[row.parameter]
        owner = torch.full((row_shape(shape, row.axis)[0],), -1)
        for layer in self.layers:
            for pattern in layer.patterns:
                if row.parameter == pattern.bias or (row.parameter, row.axis) == (pattern.weight, pattern.axis):
                    units = torch.arange(pattern.n)
                    first = self.span(layer.index, pattern.kind).start + pattern.first
                    owner[pattern.indices(units)] = (first + units)[:, None]
        return owner[row.indices]

    def parameter_count(self, components: Iterable[Component] | Tensor, mode: str = "paper") -> int:
        """Number of scalars in the rows that ``components`` own."""
        rows = self.rows(components, mode)
        return sum(len(row.indices) * row_shape(self.shapes[row.parameter], row.axis)[1] for row in rows)

    def _mask(self, components: Iterable[Component] | Tensor) -> Tensor:
        if isinstance(components, Tensor) and components.dtype == torch.bool:
            if components.shape != (self.size,):
                raise CcaError(f"components: expected a mask of shape ({self.size},), got {tuple(components.shape)}")
            return components.cpu()
        mask = torch.zeros(self.size, dtype=torch.bool)
        if isinstance(components, Tensor):
            mask[components.cpu()] = True
        else:
            mask[[self.index(component) for component in components]] = True
        return mask


def anatomy_of(
    model: PreTrainedModel, declaration: Declaration | Mapping[str, Any] | Path | str | None = None
) -> Anatomy:
    """Read and check the anatomy of ``model``.

    ``declaration`` (a mapping, a `Declaration`, or the path of a YAML file) goes over what is known of the
    model's type. Raises CcaError naming the field to declare when the model cannot be read.
    """
    config = model.config.get_text_config(decoder=True)
    declared = declaration_for(config.model_type, declaration)
    parameters = {id(parameter): name for name, parameter in model.named_parameters()}
    layers = tuple(
        read_layer(LayerReader(index, f"{name}.{index}", layer, config, declared, parameters))
        for name, stack in [_decoder_layers(model, config, declared)]
        for index, layer in enumerate(stack)
    )
    used = {name for layer in layers for pattern in layer.patterns for name in (pattern.weight, pattern.bias) if name}
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters() if name in used}
    total = sum(parameter.numel() for parameter in model.parameters())
    anatomy = Anatomy(config.model_type, layers, shapes, total)
    check_anatomy(model, anatomy)
    return anatomy


def _decoder_layers(model: PreTrainedModel, config: Any, declared: Declaration) -> tuple[str, nn.ModuleList]:
    """The one list of decoder layers: at the very path declared, or a list of the right length that ends as
    declared, towers for other modalities aside."""
    for path in declared.layers:
        exact = at(model, path)
        if isinstance(exact, nn.ModuleList):
            return path, exact
    inside = {id(module) for module in model.get_decoder().modules()}
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and id(module) in inside
        and len(module) == config.num_hidden_layers
        and any(f".{name}".endswith(f".{ending}") for ending in declared.layers)
    ]
    if len(found) != 1:
        names = ", ".join(name for name, module in model.named_modules() if isinstance(module, nn.ModuleList))
        raise CcaError(
            f"{config.model_type}: expected one list of {config.num_hidden_layers} decoder layers called "
            f"{' or '.join(declared.layers)}, found {len(found)} among {names or 'no lists'}; "
            "set `layers` in an anatomy declaration (see docs/how-to/your-model.md)"
        )
    return found[0]


def check_anatomy(model: PreTrainedModel, anatomy: Anatomy) -> None:
    """Check that the rows exist, that no two components share one, and that no embedding is touched.

    Raises CcaError naming the layer and the field to declare.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    embeddings = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None}
    embedding_names = {name for name, parameter in model.named_parameters() if id(parameter) in embeddings}
    owned: dict[tuple[str, int], Tensor] = {}
    for layer in anatomy.layers:
        for pattern in layer.patterns:
            where = f"{anatomy.model_type}, {layer.module}: {pattern.role} in {pattern.weight}"
            ask = f"set `{pattern.role}` in an anatomy declaration (see docs/how-to/your-model.md)"
            shape = shapes.get(pattern.weight)
            if shape is None or shape != anatomy.shapes.get(pattern.weight):
                raise CcaError(f"{where}: expected {anatomy.shapes.get(pattern.weight)}, got {shape}; {ask}")
            if pattern.weight in embedding_names:
                raise CcaError(f"{where}: expected a weight of this layer, got the embedding; {ask}")
            rows = row_shape(shape, pattern.axis)[0]
            indices = pattern.indices(torch.arange(pattern.n)).flatten()
            if indices.min() < 0 or indices.max() >= rows:
                raise CcaError(f"{where}: expected rows below {rows}, got {int(indices.max())}; {ask}")
            mask = owned.setdefault((pattern.weight, pattern.axis), torch.zeros(rows, dtype=torch.bool))
            free = int((~mask).sum())
            mask[indices] = True
            if free - int((~mask).sum()) != len(indices):
                raise CcaError(f"{where}: some rows already belong to another component; {ask}")

"""Rows of a model's weights that train while everything else stays frozen, without a gradient of the whole weight.

Each `WeightRows` gets a float32 master copy (half precision drops the update sizes this method uses). While
`active`, the layers compute with the masters, rounded to the model's dtype:

* output rows of a linear layer (and their bias): their outputs are computed from the master and replace the layer's;
* input columns: the outputs get ``x[..., columns] @ (master - weight)``;
* anything else (fused expert stacks): the parameter is replaced by a copy that holds the masters, which costs twice
  that parameter's size, the copy and its gradient, while a graph is alive.

No parameter of the model requires a gradient, so nothing below the lowest trained layer is back-propagated through.
In addition to the model there are the masters and their gradients; the original rows are read from the model itself,
and kept apart only while the model holds others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cca.models.anatomy.weight_rows import WeightRows, get_rows, set_rows_, whole, with_rows
from cca.models.forward.gates import frozen_weights
from cca.models.precision import wide

Key = tuple[str, int]  # parameter name, axis


class TrainableRows:
    """``masters`` are the leaves to train, (k, row length) each, keyed by (parameter, axis)."""

    def __init__(self, model: PreTrainedModel, rows: Sequence[WeightRows]) -> None:
        self.model = model
        self.rows = {(row.parameter, row.axis): row for row in rows}
        self._own: dict[Key, Tensor] | None = None
        """The model's original rows, while it holds others."""
        self.masters = {key: wide(before).requires_grad_() for key, before in self.before.items()}

    @property
    def before(self) -> Mapping[Key, Tensor]:
        """Copies of the untouched model's rows, (k, row length) each, in its dtype."""
        return _OwnRows(self) if self._own is None else self._own

    @property
    def leaves(self) -> list[Tensor]:
        """The masters, which collect gradients."""
        return list(self.masters.values())

    def after(self) -> dict[Key, Tensor]:
        """Copies of the current rows, (k, row length) each, in the model's dtype."""
        return {key: master.detach().to(self._parameter(key).dtype, copy=True) for key, master in self.masters.items()}

    def finite(self) -> bool:
        """True when every current row is finite in the model's dtype."""
        limits = {key: torch.finfo(self._parameter(key).dtype).max for key in self.masters}
        return all(float(master.detach().abs().max()) <= limits[key] for key, master in self.masters.items())

    def load(self, after: Mapping[Key, Tensor]) -> None:
        """Set the masters to ``after``, (k, row length) each."""
        with torch.no_grad():
            for key, rows in after.items():
                self.masters[key].copy_(rows)

    @contextmanager
    def written(self) -> Iterator[None]:
        """Within the block the model's weights hold the current rows; afterwards those that they held before."""
        assert self._own is None, "these rows are already written into the model"
        self._own = own = dict(self.before)
        try:
            self._write(self.masters)
            yield
        finally:
            self._write(own)
            self._own = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the block the model computes with the masters, and gradients reach them.

        Run the backward passes inside the block too, and change the masters outside of it.
        """
        assert self._own is None, "the rows are written into the model: it computes with them as it is"
        with ExitStack() as stack:
            stack.enter_context(frozen_weights(self.model))
            for name, keys in self._by_module().items():
                module = self.model.get_submodule(name)
                if isinstance(module, nn.Linear | Conv1D):
                    stack.callback(module.register_forward_hook(self._linear_hook(module, keys)).remove)
                else:
                    self._substitute(module, keys, stack)
            yield

    def _linear_hook(self, module: nn.Linear | Conv1D, keys: Sequence[Key]) -> Any:
        by_role = {_role(key, 1 if isinstance(module, Conv1D) else 0): key for key in keys}
        # made once for all forward passes of the block: these nodes save nothing, so each backward may pass them
        rows, columns, biases = (self._rounded(by_role.get(role)) for role in ("out", "in", "bias"))
        if columns is not None:
            columns = columns - self.before[by_role["in"]]
        index = {role: self.rows[key].indices.to(module.weight.device) for role, key in by_role.items()}
        if biases is not None:
            biases = biases.squeeze(1)
        elif rows is not None and module.bias is not None:
            biases = whole(module.bias.detach())[index["out"]]

        def hook(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            x = args[0]
            if columns is not None:
                out = out + x[..., index["in"]] @ columns
            if rows is not None:
                out = out.index_copy(-1, index["out"], nn.functional.linear(x, rows, biases))
            return out

        return hook

    def _substitute(self, module: nn.Module, keys: Sequence[Key], stack: ExitStack) -> None:
        """Put copies that hold the masters over the module's parameters until ``stack`` is left."""
        for key in keys:
            name, parameter = key[0].rpartition(".")[2], whole(self._parameter(key).detach())
            assert name not in module.__dict__, f"{key[0]}: rows along two axes of one parameter"
            stack.callback(module.__dict__.pop, name)
            module.__dict__[name] = _WithRows.apply(parameter, self.masters[key], key[1], self.rows[key].indices)

    def _rounded(self, key: Key | None) -> Tensor | None:
        return None if key is None else self.masters[key].to(self._parameter(key).dtype)

    def _parameter(self, key: Key) -> nn.Parameter:
        return self.model.get_parameter(key[0])

    def _by_module(self) -> dict[str, list[Key]]:
        modules: dict[str, list[Key]] = {}
        for key in self.rows:
            modules.setdefault(key[0].rpartition(".")[0], []).append(key)
        return modules

    def _write(self, rows: Mapping[Key, Tensor]) -> None:
        for key, values in rows.items():
            set_rows_(self._parameter(key), key[1], self.rows[key].indices, values)


class _OwnRows(Mapping[Key, Tensor]):
    """Reads rows from the model whenever they are asked for."""

    def __init__(self, trained: TrainableRows) -> None:
        self.trained = trained

    def __getitem__(self, key: Key) -> Tensor:
        row = self.trained.rows[key]
        return get_rows(self.trained.model.get_parameter(key[0]).detach(), key[1], row.indices)

    def __iter__(self) -> Iterator[Key]:
        return iter(self.trained.rows)

    def __len__(self) -> int:
        return len(self.trained.rows)


class _WithRows(torch.autograd.Function):
    """`with_rows`, saving nothing, so that any number of backward passes may go through one copy."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, rows: Tensor, axis: int, indices: Tensor) -> Tensor:
        ctx.axis, ctx.indices, ctx.dtype = axis, indices, rows.dtype
        return with_rows(whole, axis, indices, rows.to(whole.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None]:
        return None, get_rows(gradients[0], ctx.axis, ctx.indices).to(ctx.dtype), None, None


def _role(key: Key, out_axis: int) -> str:
    if key[0].endswith("bias"):
        return "bias"
    return "out" if key[1] == out_axis else "in"

"""Rows of a model's weights that train while everything else stays frozen, without a gradient of the whole weight.

Each `WeightRows` gets a float32 master copy (half precision drops the update sizes this method uses). While
`active`, the layers compute with the masters:

* output rows of a linear layer (and their bias): their outputs are computed from the master and put in place;
* input columns: the outputs get ``x[..., columns] @ (master - weight)``;
* anything else (fused expert stacks): the parameter is replaced by a copy that holds the masters, which costs that
  parameter's size while a graph is alive.

No parameter of the model requires a gradient, so nothing below the lowest trained layer is back-propagated through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cca.models.weight_rows import WeightRows, get_rows, set_rows_, with_rows

Key = tuple[str, int]  # parameter name, axis


class TrainableRows:
    """``masters`` are the leaves to train, (k, row length) each, keyed by (parameter, axis)."""

    def __init__(self, model: PreTrainedModel, rows: Sequence[WeightRows]) -> None:
        self.model = model
        self.rows = {(row.parameter, row.axis): row for row in rows}
        self.before = {
            key: get_rows(self._parameter(key).detach(), key[1], row.indices)
            for key, row in self.rows.items()
        }
        self.masters = {
            key: before.to(torch.promote_types(before.dtype, torch.float32)).clone().requires_grad_()
            for key, before in self.before.items()
        }

    def after(self) -> dict[Key, Tensor]:
        """The rows as they stand, in the model's dtype."""
        return {
            key: master.detach().to(self.before[key].dtype).clone() for key, master in self.masters.items()
        }

    def load(self, after: dict[Key, Tensor]) -> None:
        """Set the masters to given rows."""
        with torch.no_grad():
            for key, rows in after.items():
                self.masters[key].copy_(rows)

    @contextmanager
    def written(self) -> Iterator[None]:
        """Within the block the model's weights hold the rows as they stand; afterwards what they held before."""
        try:
            self._write(self.after())
            yield
        finally:
            self._write(self.before)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the block the model computes with the masters, and gradients reach them."""
        with ExitStack() as stack:
            for name, keys in self._by_module().items():
                module = self.model.get_submodule(name)
                if isinstance(module, nn.Linear | Conv1D):
                    hook = self._linear_hook(module, keys)
                    stack.callback(module.register_forward_hook(hook).remove)
                else:
                    hook = self._substituting_hook(module, keys)
                    stack.callback(module.register_forward_pre_hook(hook).remove)
                    stack.callback(self._drop_substitutes, module, keys)
            yield

    def _linear_hook(self, module: nn.Linear | Conv1D, keys: Sequence[Key]) -> Any:
        out_axis = 1 if isinstance(module, Conv1D) else 0
        by_role = {_role(key, module, out_axis): key for key in keys}

        def hook(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            (x,) = args
            if "in" in by_role:
                key = by_role["in"]
                out = out + x[..., self._indices(key, x)] @ self._change(key).to(x.dtype)
            if "out" in by_role:
                key = by_role["out"]
                rows = x @ self.masters[key].to(x.dtype).T  # (..., k)
                if module.bias is not None:
                    rows = rows + self._bias(module.bias, by_role.get("bias"))[self._indices(key, x)].to(
                        x.dtype
                    )
                out = out.index_copy(-1, self._indices(key, x), rows)
            return out

        return hook

    def _substituting_hook(self, module: nn.Module, keys: Sequence[Key]) -> Any:
        def hook(*_: object) -> None:
            for key in keys:
                whole = self._parameter(key).detach()
                substitute = with_rows(
                    whole, key[1], self.rows[key].indices, self.masters[key].to(whole.dtype)
                )
                module.__dict__[key[0].rpartition(".")[2]] = substitute

        return hook

    @staticmethod
    def _drop_substitutes(module: nn.Module, keys: Sequence[Key]) -> None:
        for parameter, _ in keys:
            module.__dict__.pop(parameter.rpartition(".")[2], None)

    def _change(self, key: Key) -> Tensor:
        return self.masters[key] - self.before[key].to(self.masters[key].dtype)

    def _bias(self, bias: Tensor, key: Key | None) -> Tensor:
        if key is None:
            return bias
        wide = bias.to(self.masters[key].dtype)
        return wide.index_copy(0, self._indices(key, bias), self.masters[key].squeeze(1))

    def _indices(self, key: Key, like: Tensor) -> Tensor:
        return self.rows[key].indices.to(like.device)

    def _parameter(self, key: Key) -> nn.Parameter:
        return self.model.get_parameter(key[0])

    def _by_module(self) -> dict[str, list[Key]]:
        modules: dict[str, list[Key]] = {}
        for key in self.rows:
            modules.setdefault(key[0].rpartition(".")[0], []).append(key)
        return modules

    def _write(self, rows: dict[Key, Tensor]) -> None:
        with torch.no_grad():
            for key, values in rows.items():
                set_rows_(self._parameter(key), key[1], self.rows[key].indices, values)


def _role(key: Key, module: nn.Module, out_axis: int) -> str:
    if key[0].endswith("bias"):
        return "bias"
    return "out" if key[1] == out_axis else "in"

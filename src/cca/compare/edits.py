"""An Edit: the values some of a model's weights had at a step, to be put back for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cca.models.anatomy.weight_rows import WeightRows, get_rows, set_rows_


class Edit:
    """Rows of parameters, or whole tensors; ``applied`` puts them in place and takes them away again."""

    def __init__(self, places: Sequence[tuple[Tensor, WeightRows | None]]) -> None:
        self._places = list(places)
        self._values = self._read()

    @staticmethod
    def of_rows(model: PreTrainedModel, rows: Sequence[WeightRows]) -> Edit:
        """The rows as the model has them now."""
        return Edit([(model.get_parameter(row.parameter), row) for row in rows])

    @staticmethod
    def of_tensors(tensors: Mapping[str, Tensor]) -> Edit:
        return Edit([(tensor, None) for tensor in tensors.values()])

    @contextmanager
    def applied(self) -> Iterator[None]:
        before = self._read()
        try:
            self._write(self._values)
            yield
        finally:
            self._write(before)

    def _read(self) -> list[Tensor]:
        return [
            tensor.detach().clone() if row is None else get_rows(tensor.detach(), row.axis, row.indices)
            for tensor, row in self._places
        ]

    def _write(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for (tensor, row), own in zip(self._places, values, strict=True):
                if row is None:
                    tensor.copy_(own)
                else:
                    set_rows_(tensor, row.axis, row.indices, own)

"""A LayerReader: one decoder layer with the look-ups and the patterns needed to find its components."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from cca.errors import CcaError
from cca.models.anatomy.declarations import Declaration, Names
from cca.models.anatomy.weight_rows import UnitRows


@dataclass(frozen=True)
class LayerReader:
    index: int
    name: str
    layer: nn.Module
    config: object
    declared: Declaration
    parameters: dict[int, str]
    """id(parameter) -> its name in model.named_parameters(), which names tied weights once."""

    def fault(self, expected: str, field: str) -> CcaError:
        kind = getattr(self.config, "model_type", "this model")
        return CcaError(
            f"{kind}, {self.name}: expected {expected}; set `{field}` in an anatomy declaration "
            "(see docs/how-to/your-model.md)"
        )

    def child(self, parent: nn.Module, names: Names) -> tuple[str, nn.Module] | None:
        """The first of ``names`` that exists under ``parent``, with the module."""
        return next(((name, found) for name in names if (found := at(parent, name)) is not None), None)

    def need(self, parent: nn.Module, field: str) -> nn.Module:
        """The module that the declaration's ``field`` names under ``parent``."""
        names: Names = getattr(self.declared, field)
        found = self.child(parent, names)
        if found is None:
            raise self.fault(f"a module {' or '.join(names)}, found {children(parent)}", field)
        return found[1]

    def number(self, owner: nn.Module, field: str, *names: str, default: int | None = None) -> int:
        """A count: declared as ``field``, or an attribute of the module, or of the config."""
        declared = getattr(self.declared, field)
        if declared is not None:
            return declared
        for source in (owner, self.config):
            for name in names:
                value = getattr(source, name, None)
                if isinstance(value, int) and value > 0:
                    return value
        if default is None:
            raise self.fault(f"a number called {' or '.join(names)} in the module or the config", field)
        return default

    def weight(self, module: nn.Module, field: str) -> tuple[str, int, int, int]:
        """(parameter name, axis of the output features, how many, how many inputs) of a linear module."""
        weight = getattr(module, "weight", None)
        if not isinstance(module, nn.Linear | Conv1D) or not isinstance(weight, nn.Parameter):
            raise self.fault(f"a Linear or Conv1D with its own weight, got {type(module).__name__}", field)
        axis = 1 if isinstance(module, Conv1D) else 0
        return self.parameters[id(weight)], axis, weight.shape[axis], weight.shape[1 - axis]

    def bias(self, owner: nn.Module, name: str = "bias") -> str | None:
        bias = getattr(owner, name, None)
        return None if bias is None else self.parameters[id(bias)]

    def outputs(
        self, module: nn.Module, kind: str, field: str, n: int, length: int, step: int, first: int = 0, start: int = 0
    ) -> UnitRows:
        """Units that own ``length`` of every ``step`` output features of the projection that ``field`` declares."""
        weight, axis, _, _ = self.weight(module, field)
        role = field if kind == "neuron" else kind
        return UnitRows(kind, role, weight, self.bias(module), axis, n, length, start, step, n, 0, first)

    def inputs(self, module: nn.Module, kind: str, role: str, n: int, length: int, first: int = 0) -> UnitRows:
        """Units that own consecutive input features of a projection; its bias belongs to none of them."""
        weight, axis, _, _ = self.weight(module, role)
        return UnitRows(kind, role, weight, None, 1 - axis, n, length, 0, length, n, 0, first)


def at(parent: nn.Module, path: str) -> nn.Module | None:
    """The module at a dotted path; ``.`` is ``parent``. None where there is none."""
    found: object = parent
    for part in path.split(".") if path != "." else ():
        found = getattr(found, part, None)
    return found if isinstance(found, nn.Module) else None


def join(parent: str, name: str) -> str:
    return parent if name == "." else f"{parent}.{name}"


def children(parent: nn.Module) -> str:
    """Names of the modules and parameters directly under ``parent``, for messages."""
    names = [name for name, _ in parent.named_children()]
    names += [name for name, _ in parent.named_parameters(recurse=False)]
    return ", ".join(names) or "nothing"

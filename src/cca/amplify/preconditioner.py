"""Steps that keep away from what other skills read: row gradients whitened by the inputs of retention text.

A linear layer's output moves by dw . x where its row moves by dw. On text of other skills, whose inputs have the
second moment C = E[x x^T], the mean squared change is dw C dw^T. The direction that lowers the pivot objective most for
a given change there is g C^-1: the directions that retention text uses much are left alone, those it hardly uses carry
the step. It is the input side of K-FAC (Martens and Grosse, 2015, arXiv 1503.05671), as ROME (arXiv 2202.05262, eq. 2)
uses it to write into one layer; here it shapes every gradient step on the circuit's rows.

C is measured once, on the untouched model, by forward passes alone. It is divided by its mean diagonal, so that a
layer of large inputs and one of small inputs keep their shares of the step, and damped. Rows with no input vector of
their own (biases, input columns, fused expert stacks) step along their plain gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cca.engines.engine import Tokens
from cca.errors import CcaError
from cca.models.frozen import frozen
from cca.models.prefixes import buckets, padded
from cca.models.trainable_rows import Key
from cca.models.weight_rows import WeightRows

Precondition = Callable[[Mapping[Key, Tensor]], dict[Key, Tensor]]
"""From the gradients of the masters, (k, row length) each, to the directions to step along, of the same shapes."""
Text = tuple[Tokens, Tokens]  # prompt, solution


class InputWhitening:
    """Maps a row gradient g, (k, d), to g (C / mean diagonal + damping)^-1; a `Precondition`.

    ``factors``: the lower Cholesky factor of that matrix, (d, d) in float32 or wider, on the parameter's device, for
    each key that has one.
    """

    def __init__(self, factors: Mapping[Key, Tensor]) -> None:
        self.factors = dict(factors)

    def __call__(self, gradients: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
        return {key: self._whitened(key, gradient) for key, gradient in gradients.items()}

    def _whitened(self, key: Key, gradient: Tensor) -> Tensor:
        factor = self.factors.get(key)
        if factor is None:
            return gradient
        return torch.cholesky_solve(gradient.T.to(factor.dtype), factor).T.to(gradient.dtype)


def input_whitening(
    model: PreTrainedModel,
    rows: Sequence[WeightRows],
    texts: Sequence[Text],
    damping: float,
    batch_size: int = 16,
) -> InputWhitening:
    """Measure C at every linear layer that owns some of ``rows``, on all tokens of ``texts`` (prompt and solution).

    damping: added to the diagonal, in units of its mean; > 0. Raises CcaError without texts.
    """
    texts = [text for text in texts if text[0] and text[1]]
    if not texts:
        raise CcaError(
            "amplify.precondition: inputs: expected text of other skills to spare, got none; add retention sets"
        )
    moments = input_moments(model, rows, texts, batch_size)
    return InputWhitening({key: _factor(moment, damping) for key, moment in moments.items()})


def input_moments(
    model: PreTrainedModel, rows: Sequence[WeightRows], texts: Sequence[Text], batch_size: int = 16
) -> dict[Key, Tensor]:
    """E[x x^T] of the inputs of each linear layer whose output rows are among ``rows``, (d, d), summed in float64."""
    keys_of: dict[str, list[Key]] = {}
    for row in rows:
        name = row.parameter.rpartition(".")[0]
        if _has_input_vector(model.get_submodule(name), row):
            keys_of.setdefault(name, []).append((row.parameter, row.axis))
    moments: dict[str, Tensor] = {}
    real = torch.zeros(0, dtype=torch.bool)
    tokens = 0

    def record(name: str, inputs: Tensor) -> None:
        x = inputs.detach()[real].to(torch.promote_types(inputs.dtype, torch.float32))
        seen = (x.T @ x).double()
        moments[name] = moments[name] + seen if name in moments else seen

    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(frozen(model))
        for name in keys_of:
            module = model.get_submodule(name)
            stack.callback(
                module.register_forward_pre_hook(lambda _, args, name=name: record(name, args[0])).remove
            )
        lengths = [len(prompt) + len(solution) for prompt, solution in texts]
        for batch in buckets(lengths, batch_size):
            token_ids, _ = padded([(*texts[row][0], *texts[row][1]) for row in batch], model.device)
            ends = torch.tensor([lengths[row] for row in batch], device=token_ids.device)
            real = torch.arange(token_ids.shape[1], device=token_ids.device) < ends[:, None]
            # Right padding: causal attention never looks at it, so no mask is needed.
            model(input_ids=token_ids, use_cache=False, logits_to_keep=1)
            tokens += int(ends.sum())
    return {key: moments[name] / tokens for name, keys in keys_of.items() for key in keys}


def _has_input_vector(module: nn.Module, row: WeightRows) -> bool:
    """Whether the rows are output features of a layer that multiplies them with its input."""
    out_axis = 1 if isinstance(module, Conv1D) else 0
    return (
        isinstance(module, nn.Linear | Conv1D) and not row.parameter.endswith("bias") and row.axis == out_axis
    )


def _factor(moment: Tensor, damping: float) -> Tensor:
    scale = moment.diagonal().mean().clamp_min(torch.finfo(moment.dtype).tiny)
    damped = moment / scale + damping * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    return torch.linalg.cholesky(damped).float()

"""Gates: factors on what attention reads and on what MLP neurons write, at one position of each row.

`gated` scales q, k and v of each head after q/k norm and rotary embedding, and each neuron at the input of
the down projection, by a factor; 1.0 changes nothing, to the bit, and 0.0 ablates. Gradients flow to factors.

Of k and v only the gated position's own are changed, before grouped-query heads are repeated, so the gate of
a KV head acts for all query heads that read it. Architectures that bypass AttentionInterface are gated at
the output of their projections: the same number, as they have no q/k norm and rotary embedding is linear.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.components import KINDS
from cca.models.forward.attention import hooked_attention
from cca.models.forward.expert_gates import routed_correction
from cca.models.memory import is_out_of_memory

Index = tuple[Tensor, Tensor]  # rows (B,), positions (B,)
CHECKED = 8
"""Tokens that `check_gates` runs."""
MODEL_FAULTS = (
    TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError, NotImplementedError
)  # fmt: skip
"""Exceptions out of the code of a model that is not built as our hooks expect."""


@contextmanager
def gated(
    model: PreTrainedModel,
    anatomy: Anatomy,
    factors: Tensor,
    last: Tensor | Sequence[int] | None = None,
    positions: Literal["last", "all"] = "last",
) -> Iterator[None]:
    """Within the block, every forward pass of ``model`` runs with its components scaled by ``factors``.

    factors: (anatomy.size,), the same for all rows, or (B, anatomy.size); laid out by ``anatomy.span``.
    last: (B,) the position gated in each row, counted in the tokens of the forward pass; None: the final.
    positions: "all" gates every position instead.
    Inside or around `prefixes.prefixed`, the tokens of the forward pass are the new ones. Raises CcaError when
    gates are already in place, for factors or positions that do not fit, and under gradient checkpointing.
    """
    if factors.dim() not in (1, 2) or factors.shape[-1] != anatomy.size:
        raise CcaError(
            f"gates: expected factors of shape ({anatomy.size},) or (B, {anatomy.size}), got {tuple(factors.shape)}"
        )
    if positions not in ("last", "all"):
        raise CcaError(f"gates: expected positions to be 'last' or 'all', got {positions!r}")
    if positions == "all" and last is not None:
        raise CcaError("gates: expected no `last` with positions='all', got one")
    gates = _Gates(anatomy, factors, None if last is None else torch.as_tensor(last), positions == "all")
    with ExitStack() as stack:
        stack.enter_context(hooked_attention(model, anatomy, gates=gates))
        for handle in gates.hooks(model):
            stack.callback(handle.remove)
        yield


@contextmanager
def frozen_weights(model: nn.Module) -> Iterator[None]:
    """Within the block no parameter of ``model`` requires a gradient; afterwards those that did do again.

    Gates and copies of rows train, never a parameter of the model. With frozen parameters nothing is saved or computed
    for the others, and none of them collects a ``.grad``.
    """
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def check_gates(model: PreTrainedModel, anatomy: Anatomy) -> None:
    """Check an anatomy on the loaded model: a few tokens plain and under neutral gates, with one backward pass.

    Raises CcaError when a neutral gate moves a logit by a single bit, or when all gates of a kind in a layer
    leave the logits as they are: then the anatomy is not the model's, or its attention is not what it seems. An error
    in the model's own code is a CcaError too: the gates do not fit its architecture.
    """
    ask = "set `anatomy` (docs/how-to/your-model.md) or `attn_implementation: eager`"
    vocabulary = model.config.get_text_config().vocab_size
    device = next(model.parameters()).device
    tokens = torch.arange(1, CHECKED + 1, device=device)[None] % vocabulary
    factors = torch.ones(anatomy.size, device=device, requires_grad=True)
    try:
        with torch.no_grad():
            plain = _logits(model, tokens)
            repeatable = torch.equal(plain, _logits(model, tokens))  # some CUDA kernels are not
        with torch.enable_grad(), gated(model, anatomy, factors):
            logits = _logits(model, tokens)
            (moved,) = torch.autograd.grad(logits[0, -1].float().logsumexp(-1), factors)
    except MODEL_FAULTS as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise CcaError(
            f"{anatomy.model_type}: expected a forward pass under gates to succeed, got {type(error).__name__} "
            f"({reason:.200}); {ask}"
        ) from error
    change = float((logits - plain).detach().abs().max())
    if repeatable and change > 0:
        raise CcaError(
            f"{anatomy.model_type}: expected neutral gates to change no logit, got a change of {change:.3g}; {ask}"
        )
    for layer in anatomy.layers:
        for kind in KINDS:
            if layer.count(kind) and not moved[anatomy.span(layer.index, kind)].any():
                raise CcaError(
                    f"{anatomy.model_type}, {layer.module}: expected gates of {kind} to reach the logits, "
                    f"got no effect; {ask}"
                )


def _logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    return model(input_ids=tokens, use_cache=False).logits


class _Gates:
    """The factors by layer and kind, and where they act in the forward pass under way."""

    def __init__(self, anatomy: Anatomy, factors: Tensor, last: Tensor | None, everywhere: bool) -> None:
        self.anatomy = anatomy
        self.rows = factors.shape[0] if factors.dim() == 2 else None
        self.last = last
        self.everywhere = everywhere
        self.parts = _split(anatomy, factors)
        self.at: Index | None = None  # None: every position, which is also all of one new token
        self.shape = (0, 0)

    def starts(self, rows: int, width: int, device: torch.device) -> None:
        if self.rows is not None and self.rows != rows:
            raise CcaError(f"gates: expected factors for {rows} rows of tokens, got {self.rows}")
        self.shape = (rows, width)
        self.at = None
        if self.last is None:
            if width > 1 and not self.everywhere:
                self.at = (torch.arange(rows, device=device), torch.full((rows,), width - 1, device=device))
            return
        if self.last.shape != (rows,) or int(self.last.min()) < 0 or int(self.last.max()) >= width:
            raise CcaError(f"gates: expected {rows} last positions from 0 to {width - 1}, got {self.last.tolist()}")
        if width > 1:
            self.at = (torch.arange(rows, device=device), self.last.to(device))

    def scale(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, H, T, D), k and v (B, KV, T, D), the gated position scaled."""
        heads = zip("qkv", (q, k, v), strict=True)
        q, k, v = (
            _scaled(x.transpose(1, 2), self.parts[layer, kind][..., None], self.at).transpose(1, 2) for kind, x in heads
        )
        return q, k, v

    def hooks(self, model: PreTrainedModel) -> Iterator[Any]:
        """Put the hooks of neurons, and of heads that AttentionInterface does not reach, in place."""
        for layer, parts in enumerate(self.anatomy.layers):
            if parts.attention is not None and not parts.interface:
                for role in "qkv":
                    projection = model.get_submodule(parts.pattern(role).module)
                    yield projection.register_forward_hook(self._head_hook(layer, role))
            if parts.down is not None:
                down = model.get_submodule(parts.down)
                yield down.register_forward_pre_hook(self._neuron_hook(layer, parts.n_routed))
            if parts.experts is not None:
                experts = model.get_submodule(parts.experts.module)
                yield experts.register_forward_hook(self._expert_hook(layer, parts.n_routed), with_kwargs=True)

    def _head_hook(self, layer: int, role: str) -> Any:
        pattern = self.anatomy.layers[layer].pattern(role)
        features = pattern.indices(torch.arange(pattern.n)).flatten()

        def hook(_module: nn.Module, _args: tuple, out: Tensor) -> Tensor:
            factors = self.parts[layer, role].repeat_interleave(pattern.length, dim=-1).to(out.device)
            full = factors.new_ones(*factors.shape[:-1], out.shape[-1])
            return _scaled(out, full.index_copy(-1, features.to(out.device), factors), self.at)

        return hook

    def _neuron_hook(self, layer: int, first: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            x = args[0]  # (B, T, N), or (B * T, N) inside a mixture of experts
            factors = self.parts[layer, "neuron"][..., first:]
            return (_scaled(x.view(*self.shape, -1), factors, self.at).view(x.shape),)

        return hook

    def _expert_hook(self, layer: int, n: int) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], out: Tensor) -> Tensor:
            factors = self.parts[layer, "neuron"][..., :n]
            return out + routed_correction(module, args, kwargs, factors, self.at, self.shape)

        return hook


def _scaled(x: Tensor, factors: Tensor, at: Index | None) -> Tensor:
    """x (B, T, ...) times factors (...) or (B, ...), at the positions ``at``; never in place.

    The product is taken in the wider of the two dtypes and rounded once, so that float32 factors keep their
    resolution over a half-precision model.
    """
    factors = factors.to(x.device)
    if at is None:
        if factors.dim() == x.dim() - 1:
            factors = factors.unsqueeze(1)
        return (x * factors).to(x.dtype)
    row, position = (index.to(x.device) for index in at)
    return x.index_put((row, position), (x[row, position] * factors).to(x.dtype))


def _split(anatomy: Anatomy, factors: Tensor) -> dict[tuple[int, str], Tensor]:
    """Views of the factors by (layer, kind). One split, so that its backward pass is one concatenation."""
    keys = [(layer, kind) for layer in range(len(anatomy.layers)) for kind in KINDS]
    spans = sorted((anatomy.span(*key).start, anatomy.span(*key).stop, key) for key in keys)
    pieces = factors.split([stop - start for start, stop, _ in spans], dim=-1)
    return {key: piece for (_, _, key), piece in zip(spans, pieces, strict=True)}

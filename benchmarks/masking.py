"""Masking steps: one token per pivot on the KV of its prefix, against running every whole prompt at every step.

A step's batch is 8 pivots by default (as published); 32 gives attention to the prefix a larger share of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.measuring import Row, quotients, seconds
from benchmarks.models import random_llama, random_pivots
from cca.circuits.dcm import GATE_FUNCTIONS, learn_mask
from cca.circuits.settings import CircuitConfig
from cca.gradients.pivot_forward import PivotForward
from cca.models.anatomy.anatomy import Anatomy, anatomy_of
from cca.pivots.pivot import Pivot

PAIRS = 5
PROMPT, OWN = 650, 40
"""Tokens of a prompt, and how many of them are a pivot's own where the rest is shared few-shot examples."""


def measure() -> list[Row]:
    model = random_llama()
    anatomy = anatomy_of(model)
    return [
        against_whole_prompts(model, anatomy, batch_size=32, shared=PROMPT - OWN, reach=60),
        against_whole_prompts(model, anatomy, batch_size=8, shared=PROMPT - OWN, reach=None),
        against_whole_prompts(model, anatomy, batch_size=32, shared=0, reach=None),
        growth(model, anatomy, batch_size=8, few_shot=True, reach=1.3),
        growth(model, anatomy, batch_size=32, few_shot=True, reach=None),
        growth(model, anatomy, batch_size=8, few_shot=False, reach=None),
    ]


def against_whole_prompts(
    model: PreTrainedModel, anatomy: Anatomy, batch_size: int, shared: int, reach: float | None
) -> Row:
    pivots = random_pivots(batch_size, shared, PROMPT - shared)
    few_shot = f", {shared} of them shared few-shot examples" if shared else ", nothing shared"
    times = quotients(
        masking_step(anatomy, NaiveGaps(model, anatomy, pivots)),
        masking_step(anatomy, PivotForward(model, anatomy, pivots, batch_size).gaps),
        PAIRS, below_times=25,
    )  # fmt: skip
    prefill = seconds(lambda: PivotForward(model, anatomy, pivots, batch_size))
    difference = mask_difference(model, anatomy, pivots, batch_size)
    return Row(
        f"masking step, batch {batch_size}, {PROMPT}-token prompts{few_shot}",
        "the whole prompts at every step",
        times,
        (">=", reach) if reach else None,
        f"gates after 3 steps differ by at most {difference:.0e}; prefixes computed once in {prefill:.2f} s",
        sound=difference <= 1e-4,
    )


def growth(model: PreTrainedModel, anatomy: Anatomy, batch_size: int, few_shot: bool, reach: float | None) -> Row:
    def steps(prompt: int) -> Callable[[], None]:
        shared = prompt - OWN if few_shot else 0
        pivots = random_pivots(batch_size, shared, prompt - shared)
        return masking_step(anatomy, PivotForward(model, anatomy, pivots, batch_size).gaps)

    kind = "all but 40 tokens shared" if few_shot else "nothing shared"
    times = quotients(steps(1000), steps(100), 2 * PAIRS, above_times=20, below_times=20)
    return Row(
        f"masking step, batch {batch_size}, {kind}: from 100 to 1000 tokens of prompt",
        "itself at 100 tokens",
        times,
        ("<=", reach) if reach else None,
        "time at 1000 tokens over time at 100",
    )


def masking_step(anatomy: Anatomy, gaps_of: Callable[[int, Tensor], Tensor]) -> Callable[[], None]:
    """One step of DCM training, as `learn_mask` takes it."""
    gates = torch.ones(anatomy.size, requires_grad=True)
    optimiser = torch.optim.Adam([gates], lr=5e-3)
    factors = GATE_FUNCTIONS["double"]

    def step() -> None:
        loss = 0.01 * gates.abs().sum() - gaps_of(0, factors(gates)).mean()
        (gates.grad,) = torch.autograd.grad(loss, gates)
        optimiser.step()
        with torch.no_grad():
            gates.clamp_(0, 1)

    return step


def mask_difference(model: PreTrainedModel, anatomy: Anatomy, pivots: Sequence[Pivot], batch_size: int) -> float:
    settings = CircuitConfig(epochs=3)
    forward = PivotForward(model, anatomy, pivots, batch_size)
    ours = learn_mask(forward, settings)
    naive = learn_mask(forward, settings, gaps_of=NaiveGaps(model, anatomy, pivots))
    return float((ours.gates - naive.gates).abs().max())


class NaiveGaps:
    """What masking is by definition: run the prompts, scale the outputs of projections at their last position."""

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, pivots: Sequence[Pivot]) -> None:
        self.model, self.anatomy = model, anatomy
        self.desired = torch.tensor([pivot.desired for pivot in pivots])
        self.undesired = torch.tensor([pivot.undesired for pivot in pivots])
        lengths = [len(pivot.tokens) for pivot in pivots]
        self.last = torch.tensor(lengths) - 1
        self.tokens = torch.zeros(len(pivots), max(lengths), dtype=torch.long)
        for row, pivot in enumerate(pivots):
            self.tokens[row, : lengths[row]] = torch.tensor(pivot.tokens)

    def __call__(self, batch: int, factors: Tensor) -> Tensor:
        assert batch == 0, "one batch holds all pivots here"
        rows = torch.arange(len(self.tokens))
        with self.scaled(factors):  # padding on the right is never seen from the left
            logits = self.model(input_ids=self.tokens, use_cache=False).logits[rows, self.last]
        return logits[rows, self.desired] - logits[rows, self.undesired]

    @contextmanager
    def scaled(self, factors: Tensor) -> Iterator[None]:
        """Rotary embedding is linear, and this model has no q/k norm: scaling a projection scales the head."""
        rows = torch.arange(len(self.tokens))

        def scale(x: Tensor, layer: int, kind: str, width: int) -> Tensor:
            own = factors[self.anatomy.span(layer, kind)].repeat_interleave(width)
            return x.index_put((rows, self.last), x[rows, self.last] * own)

        with ExitStack() as stack:
            for layer, block in enumerate(self.model.get_decoder().layers):
                for kind, module in zip("qkv", heads(block), strict=True):
                    hook = module.register_forward_hook(
                        lambda _m, _a, out, at=layer, kind=kind, width=block.self_attn.head_dim: scale(
                            out, at, kind, width
                        )
                    )
                    stack.callback(hook.remove)
                hook = block.mlp.down_proj.register_forward_pre_hook(
                    lambda _m, args, at=layer: (scale(args[0], at, "neuron", 1),)
                )
                stack.callback(hook.remove)
            yield


def heads(block: torch.nn.Module) -> tuple[torch.nn.Module, ...]:
    return block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj

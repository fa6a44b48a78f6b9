"""The baselines: LoRA's adapters or all weights trained on texts or pivots by Adam, and circuits that are scaled.

Fine-tuned weights train in the model's own dtype: load the model in float32 for a fair comparison.

Scaling a circuit's activations needs no training: at every position a neuron's activation times c is its down column
times c, and a V head's output times c is its rows (and bias) times c, so it is an edit of weights, exactly. The gates
of Q and K heads act after q/k norm and rotary embedding; where a model has that norm no scaling of weights equals them,
so circuits are of neurons and V heads.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from cca.amplify.amplify import StepRecord, Validation, better
from cca.baselines import BaselineSettings
from cca.circuits.circuit import Circuit
from cca.engines.decoding import end_tokens
from cca.engines.engine import Tokens
from cca.errors import CcaError
from cca.models.anatomy.anatomy import Anatomy
from cca.models.anatomy.weight_rows import WeightRows, get_rows, set_rows_
from cca.models.forward.prefixes import padded
from cca.pivots.traces import Grader, Trace
from cca.problems.problem import Problem

IGNORED = -100


@dataclass(frozen=True)
class TrainingText:
    """A prompt and its completion, the end of the text included."""

    prompt: Tokens
    completion: Tokens


def gold_texts(problems: Sequence[Problem], grader: Grader, model: PreTrainedModel) -> list[TrainingText]:
    """The worked solutions of ``problems``. Raises CcaError when there are none."""
    ends = sorted(end_tokens(model))[:1]
    texts = [
        TrainingText(grader.prompt_ids(problem), (*grader.codec.encode_continuation(f" {problem.solution}"), *ends))
        for problem in problems
        if problem.solution
    ]
    if not texts:
        raise CcaError("baseline on gold solutions: expected problems with worked solutions, got none")
    return texts


def own_right_texts(
    problems: Sequence[Problem], traces: Sequence[Sequence[Trace]], grader: Grader
) -> list[TrainingText]:
    """All right traces that ended by themselves, greedy or sampled. Raises CcaError when there is none."""
    prompts = {problem.id: problem for problem in problems}
    texts = [
        TrainingText(grader.prompt_ids(prompts[trace.problem]), trace.token_ids)
        for own in traces
        for trace in own
        if trace.right and trace.finished
    ]
    if not texts:
        raise CcaError("baseline on own traces: expected right traces, got none")
    return texts


def batches(texts: Sequence[TrainingText], size: int, seed: int) -> Iterator[list[TrainingText]]:
    """Endless batches of ``size`` texts: every text once per epoch, in an order that the seed fixes."""
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    while True:
        while len(queue) < min(size, len(texts)):
            queue += torch.randperm(len(texts), generator=generator).tolist()
        yield [texts[index] for index in queue[:size]]
        queue = queue[size:]


def completion_loss(model: PreTrainedModel, batch: Sequence[TrainingText]) -> Tensor:
    """Mean cross-entropy over the completions' tokens, in nats; a differentiable scalar in float32 or wider."""
    token_ids, _ = padded([(*text.prompt, *text.completion)[:-1] for text in batch], model.device)
    labels = torch.full_like(token_ids, IGNORED)
    for row, text in enumerate(batch):
        start = len(text.prompt) - 1
        labels[row, start : start + len(text.completion)] = torch.tensor(text.completion)
    keep = labels != IGNORED
    # Right padding: causal attention never looks at it, so no mask is needed.
    logits = model(input_ids=token_ids, use_cache=False).logits[keep]
    return functional.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels[keep])


@contextmanager
def lora(model: PreTrainedModel, rank: int, alpha: int | None, seed: int) -> Iterator[dict[str, Tensor]]:
    """Within the block ``model`` computes with fresh adapters, which change nothing until they are trained.

    Yields the adapters' tensors, in float32 or wider, the only ones that ask for a gradient. Afterwards the model is as
    it was. peft samples from torch's global generator, which is seeded for that alone.
    """
    asking = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    config = LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, target_modules="all-linear")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # peft sees to GPT-2's Conv1D by itself
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    adapted.eval()
    try:
        yield {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    finally:
        adapted.unload()
        if hasattr(model, "peft_config"):
            del model.peft_config
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(asking[name])


@contextmanager
def unfrozen(model: PreTrainedModel) -> Iterator[dict[str, Tensor]]:
    """Within the block every parameter asks for a gradient; afterwards values and flags are as before."""
    parameters = dict(model.named_parameters())
    before = {name: (p.detach().cpu().clone(), p.requires_grad) for name, p in parameters.items()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        yield dict(parameters)
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                values, asked = before[name]
                parameter.copy_(values)
                parameter.requires_grad_(asked)
                parameter.grad = None


class AsItIs:
    """The parameters of the model that ask for a gradient: adapters, or all weights."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.leaves = [parameter for parameter in model.parameters() if parameter.requires_grad]

    @contextmanager
    def active(self) -> Iterator[None]:
        yield


def tune(
    tensors: Mapping[str, Tensor],
    add_gradient: Callable[[], tuple[float, float | None]],
    settings: BaselineSettings,
    validate: Callable[[], Validation],
    on_step: Callable[[StepRecord], None],
) -> None:
    """Train ``tensors``; ``add_gradient`` adds their gradient and returns (loss, mean logit gap).

    Step 0, the untouched model, is validated too. Ends after ``settings.steps``, when patience runs out, or when
    the loss or gradient stops being finite.
    """
    adam = torch.optim.Adam(tensors.values(), lr=settings.learning_rate)
    best = validate()
    on_step(StepRecord(0, None, None, best))
    stale = 0
    for step in range(1, settings.steps + 1):
        adam.zero_grad()
        loss, gap = add_gradient()
        gradients = [tensor.grad for tensor in tensors.values() if tensor.grad is not None]
        if not math.isfinite(loss) or not all(bool(gradient.isfinite().all()) for gradient in gradients):
            break
        adam.step()
        if step % settings.validate_every:
            continue
        validation = validate()
        on_step(StepRecord(step, loss, gap, validation))
        best, stale = (validation, 0) if better(validation, best) else (best, stale + 1)
        if stale >= settings.patience:
            break
    adam.zero_grad()


class Edit:
    """The values of rows of parameters, or of whole tensors, as they are now; ``applied`` puts them in place."""

    def __init__(self, places: Sequence[tuple[Tensor, WeightRows | None]]) -> None:
        self._places = list(places)
        self._values = self._read()

    @staticmethod
    def of_rows(model: PreTrainedModel, rows: Sequence[WeightRows]) -> Edit:
        return Edit([(model.get_parameter(row.parameter), row) for row in rows])

    @staticmethod
    def of_tensors(tensors: Mapping[str, Tensor]) -> Edit:
        return Edit([(tensor, None) for tensor in tensors.values()])

    def now(self) -> Edit:
        """The values that the same places have at this moment."""
        return Edit(self._places)

    @property
    def parameters(self) -> int:
        return sum(value.numel() for value in self._values)

    @contextmanager
    def applied(self, factor: float = 1.0) -> Iterator[None]:
        """Within the block the values are in place, times ``factor``; afterwards those of before."""
        before = self._read()
        try:
            self._write([value * factor for value in self._values])
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


SCALED = {"neuron": "down", "v": "v"}
"""Kind of component -> role of the weights that its activation scales with."""


def scaled_rows(anatomy: Anatomy, circuit: Circuit) -> tuple[WeightRows, ...]:
    """The rows whose product with c scales the circuit's activations by c. Raises CcaError for Q and K heads."""
    other = sorted({component.kind for component in circuit.components} - SCALED.keys())
    if other:
        raise CcaError(f"scaling: expected a circuit of neurons and V heads, got {', '.join(other)} heads in it")
    return anatomy.rows_of_roles(circuit.components, tuple(SCALED.values()))

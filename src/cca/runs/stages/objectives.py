"""What a configuration says of the steps of amplify, beyond their settings: special objectives, the preconditioner."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from cca.circuits.circuit import Circuit
from cca.gradients.fisher import Precondition, whitening
from cca.gradients.kl_anchor import AddGradient, KLAnchor, Text, gradient_of
from cca.gradients.objectives import OBJECTIVES
from cca.gradients.pivot_objectives import pivot_objective
from cca.models.anatomy.anatomy import Anatomy
from cca.pivots.pivot import Pivot
from cca.runs.config.config import AmplifyConfig


def special_gradient(
    model: PreTrainedModel,
    anatomy: Anatomy,
    pivots: Sequence[Pivot],
    settings: AmplifyConfig,
    anchored: Callable[[], Sequence[Text]],
    batch_size: int,
) -> AddGradient | None:
    """What adds the gradient of the objective, to be made while the model is untouched; None: `amplify` does it itself.

    ``anchored`` gives the texts that the KL anchor holds the model to; asked for only when there is an anchor.
    """
    if settings.objective in OBJECTIVES and not settings.anchor:
        return None
    objective = pivot_objective(settings.objective, model, anatomy, pivots, settings.beta)
    anchor = KLAnchor(model, anchored(), settings.anchor) if settings.anchor else None
    return gradient_of(model, anatomy, pivots, objective, batch_size, anchor, settings.gradient_checkpointing)


def preconditioner(
    model: PreTrainedModel,
    anatomy: Anatomy,
    circuit: Circuit,
    settings: AmplifyConfig,
    spared: Callable[[], Sequence[Text]],
    seed: int,
    batch_size: int = 16,
) -> Precondition | None:
    """What shapes the steps on the circuit's rows, measured on the model as it stands; None: nothing does.

    ``spared`` gives texts of other skills; asked for only where they are needed. Raises CcaError where
    ``precondition: fisher`` has no such texts.
    """
    if settings.precondition == "none":
        return None
    if settings.precondition == "auto" and settings.optimiser != "gradient-descent":
        return None
    texts = spared()
    if settings.precondition == "auto" and not texts:
        return None
    rows = anatomy.rows(circuit.components, settings.rows)
    generator = torch.Generator().manual_seed(seed)
    return whitening(model, rows, texts, settings.damping, generator, batch_size)

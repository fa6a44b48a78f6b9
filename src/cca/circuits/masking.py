"""Desiderata-based component masking (DCM, arXiv 2307.03637) as CCA uses it (paper, section 3.2).

1. One gate m in [0, 1] for every Q, K and V head and every MLP neuron, starting at 1.
2. At the last position of a pivot's prefix each component's activation is multiplied by a gate function of its m.
3. Adam maximises the mean logit(desired) - logit(undesired) minus ``penalty`` times the sum of the gates;
   after each step the gates are clamped to [0, 1].
4. A component whose gate ends above ``threshold`` is in the circuit.

A step costs a forward and backward of one token per pivot (`PivotForward`). Batches hold pivots of similar length and
are visited in a new random order each epoch. `mask_training` has the loop, and other relaxations and penalties.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from cca.circuits.dcm import Gaps, Mask, MaskSettings, train_mask
from cca.engines.engine import Progress
from cca.errors import CcaError
from cca.gradients.pivot_forward import PivotForward
from cca.gradients.training_state import Keeper
from cca.models.anatomy.anatomy import Anatomy
from cca.pivots.pivot import Pivot


def learn_mask(
    model: PreTrainedModel,
    anatomy: Anatomy,
    pivots: Sequence[Pivot],
    settings: MaskSettings,
    progress: Progress | None = None,
    gaps_of: Gaps | None = None,
    keeper: Keeper | None = None,
) -> Mask:
    """Train the gates; the model itself is not changed. ``progress`` counts epochs.

    ``gaps_of(batch, factors)`` replaces the one-token forward (tests compare it with re-running whole prompts). With a
    ``keeper`` a training that was stopped goes on from its last epoch. Raises CcaError when there is no pivot or the
    objective stops being finite.
    """
    if not pivots:
        raise CcaError("masking: expected at least one pivot, got none")
    forward = PivotForward(model, anatomy, pivots, settings.batch_size)
    return train_mask(forward, settings, progress=progress, gaps_of=gaps_of, keeper=keeper)

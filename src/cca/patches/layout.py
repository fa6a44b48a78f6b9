"""The stored tensors that hold each parameter: checkpoints and models do not always agree on names and shapes.

Three cases. (1) Nearly always the stored tensor has the parameter's own name and shape; nothing else is looked at
then. (2) Otherwise transformers' own loading rules decide: the model is built from ``config.json`` without
weights, and every stored name goes through the renamings that loading would apply: prefixes, renamed modules,
experts stored one tensor each and fused on load. Fusing is supported where the fused bytes are the stored
bytes one after the other; what transformers would also transpose or split is refused by name. (3) Tied
weights may be stored once, under any of their names, or several times; all copies found are edited.

A wrong guess here cannot do harm: rows and hash of the whole parameter are compared before anything is
written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cca.errors import CcaError
from cca.models.anatomy.weight_rows import DTYPES, dtype_name, same_bits
from cca.models.checkpoint import FLOATS, Checkpoint, ShardFile, StoredTensor, open_checkpoint
from cca.patches.patch import Patch, TensorEdit, tied_names
from cca.patches.patch_content import layer_of
from cca.patches.stored_rows import StoredParameter, scan

STATES = {"before": "base", "after": "patched"}
"""Side of the patch -> the name of a checkpoint that holds it."""
THREADS = min(4, os.cpu_count() or 1)
"""Tensors read and hashed at a time; both leave the interpreter free."""
OPERATIONS = (["MergeModulelist"], ["MergeModulelist", "Concatenate"])  # that only join bytes


@dataclass(frozen=True)
class Match:
    """An edit and one stored copy of its parameter."""

    edit: TensorEdit
    stored: StoredParameter

    @property
    def name(self) -> str:
        return self.stored.stored_name


def match_edits(patch: Patch, checkpoint: Checkpoint) -> list[Match]:
    """Each edit with every copy of its parameter. Raises CcaError for the first that is absent, or of another kind."""
    layout = Layout(checkpoint)
    matched: list[Match] = []
    for edit in patch.edits:
        tied = patch.tied.get(edit.parameter, [])
        for copy in layout.find(edit.parameter, patch.base_shapes[edit.parameter], tied):
            if DTYPES.get(copy.dtype) != edit.before.dtype:
                raise CcaError(
                    f"{copy.stored_name}: the patch is {dtype_name(edit.before)}, {checkpoint.folder} stores "
                    f"{copy.dtype}; make the patch on the model loaded in the checkpoint's own dtype"
                )
            matched.append(Match(edit, copy))
    return matched


def find_side(patch: Patch, matched: Sequence[Match], files: Mapping[str, ShardFile]) -> str:
    """The side of the patch, "before" or "after", that the checkpoint holds to the bit.

    Every touched tensor is read once: its rows are compared, and all else by the hash. Raises CcaError naming the
    first tensor that is another, or that is on another side than those before it. A patch without edits is "before".
    """
    found: dict[str, str] = {}
    for match, rows in check_untouched(patch, matched, files):
        side = next((side for side in STATES if same_bits(rows, getattr(match.edit, side))), None)
        if side is None:
            raise _another_base(match, patch, "its rows are neither the patch's 'before' nor its 'after'")
        found[match.name] = side
        first = next(iter(found))
        if found[first] != side:
            state, other = STATES[side], STATES[found[first]]
            raise CcaError(f"{match.name}: is {state}, but {first} is {other}; fetch {patch.base} again")
    return next(iter(found.values()), "before")


def check_untouched(
    patch: Patch, matched: Sequence[Match], files: Mapping[str, ShardFile]
) -> Iterator[tuple[Match, Tensor]]:
    """Yield (match, its touched rows) for each stored copy whose other rows are the base's.

    Raises CcaError for the first that differs there. Several tensors are read and hashed at a time.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        scans = pool.map(lambda match: scan(match.stored, match.edit, files), matched)
        try:
            for match, (rows, hashed) in zip(matched, scans, strict=True):
                if hashed != patch.base_hashes[match.edit.parameter]:
                    raise _another_base(match, patch, "differs from the patch's base outside the touched rows")
                yield match, rows
        finally:
            pool.shutdown(cancel_futures=True)


def _another_base(match: Match, patch: Patch, how: str) -> CcaError:
    return CcaError(f"{match.name}: {how}; the patch was made on {patch.base}")


def touched_shards(matched: Sequence[Match]) -> list[str]:
    return sorted({shard for match in matched for shard in match.stored.shards})


def merge_objection(folder: Path, model: nn.Module) -> str | None:
    """The reason why a patch of ``model``, loaded from ``folder``, could not be merged into it; None where it can be.

    Read from headers alone, so that it is known before a run spends hours on such a patch.
    """
    try:
        layout = Layout(open_checkpoint(folder))
        for name, parameter in model.named_parameters():
            if layer_of(name) is None or parameter.dim() < 2:
                continue
            for copy in layout.find(name, tuple(parameter.shape)):
                if DTYPES.get(copy.dtype) != parameter.dtype:
                    stored = FLOATS.get(copy.dtype)
                    advice = f"set dtype: {stored}" if stored else "save the model dequantised, and start from that"
                    return (
                        f"the model is loaded as {dtype_name(parameter)}, and {folder} stores {copy.stored_name} as "
                        f"{copy.dtype}; {advice}"
                    )
    except CcaError as error:
        return str(error)
    return None


class Layout:
    """Finds parameters in one checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def find(self, name: str, shape: Sequence[int], tied: Sequence[str] = ()) -> list[StoredParameter]:
        """Every stored copy of parameter ``name``. Raises CcaError where there is none."""
        aliases, wanted = (name, *tied), tuple(shape)
        direct = [self.checkpoint.tensors[alias] for alias in aliases if alias in self.checkpoint.tensors]
        copies = [_single(tensor.name, tensor) for tensor in direct if tensor.shape == wanted]
        if not copies:
            converted = [self.parameters[alias] for alias in aliases if alias in self.parameters]
            copies = [stored for stored in converted if stored.shape == wanted]
        if not copies:
            found = f"got {list(direct[0].shape)}" if direct else "it has no such tensor that could be read in place"
            raise CcaError(f"{name}: expected shape {list(shape)} in {self.checkpoint.folder}, {found}")
        return copies

    def names(self) -> dict[str, list[str]] | None:
        """Every parameter and persistent buffer of the loaded model -> its other names, where it is tied.

        None for a model that transformers itself does not know.
        """
        if self._model is None:
            return None
        state = self._model.state_dict(keep_vars=True).items()
        groups = tied_names([*self._model.named_parameters(remove_duplicate=False), *state])
        return {names[0]: names[1:] for names in groups}

    def buffers(self) -> set[str]:
        return set() if self._model is None else {name for name, _ in self._model.named_buffers()}

    @cached_property
    def _model(self) -> Any:
        """The model without weights; None for one that transformers does not know."""
        config = self.checkpoint.config
        return None if config is None or not known(config) else empty_model(config)

    @cached_property
    def parameters(self) -> dict[str, StoredParameter]:
        """Every stored tensor under the name and shape its parameter has in the loaded model."""
        return _convert(self.checkpoint, self._model)


def known(config: dict[str, Any]) -> bool:
    """Whether transformers itself has this architecture; others, with code of their own, keep names as stored."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return config.get("model_type") in CONFIG_MAPPING


def empty_model(config: dict[str, Any]) -> Any:
    """The transformers model of a ``config.json``, without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {key: value for key, value in config.items() if key != "model_type"}
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(AutoConfig.for_model(str(config.get("model_type")), **settings))
    except Exception as error:  # whatever a strange configuration makes a model's own code raise
        reason = str(error).split("\n")[0][:200]
        kind = config.get("model_type")
        raise CcaError(f"config.json: transformers cannot build a {kind!r} model from it ({reason})") from error


def _convert(checkpoint: Checkpoint, model: Any) -> dict[str, StoredParameter]:
    if model is None:
        return {name: _single(name, tensor) for name, tensor in checkpoint.tensors.items()}
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    state = model.state_dict()
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    found: dict[str, StoredParameter] = {}
    to_join: dict[str, dict[str, list[StoredTensor]]] = {}  # parameter -> source pattern -> tensors, in order
    for name in sorted(checkpoint.tensors, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if target not in state and name in state:
            target, pattern = name, None
        if pattern is None:
            found[target] = _single(target, checkpoint.tensors[name])
        else:
            to_join.setdefault(target, {}).setdefault(pattern, []).append(checkpoint.tensors[name])
    for target, sources in to_join.items():
        converter = by_pattern[next(iter(sources))]
        operations = [type(operation).__name__ for operation in converter.operations]
        groups = [sources.get(pattern, []) for pattern in converter.source_patterns]
        if operations in OPERATIONS and len({len(group) for group in groups}) == 1:
            found[target] = _experts(target, list(zip(*groups, strict=True)))
    return found


def _single(name: str, tensor: StoredTensor) -> StoredParameter:
    return StoredParameter(name, tensor.shape, tensor.dtype, (tensor,))


def _experts(name: str, experts: list[tuple[StoredTensor, ...]]) -> StoredParameter:
    """Experts of one or more (rows, width) matrices each, fused to (experts, all rows, width)."""
    pieces = tuple(tensor for expert in experts for tensor in expert)
    if len({tuple((tensor.dtype, tensor.shape) for tensor in expert) for expert in experts}) > 1:
        raise CcaError(f"{name}: its experts are stored in different shapes or dtypes; save the model again")
    if len({(tensor.dtype, tensor.shape[1:]) for tensor in experts[0]}) > 1:
        raise CcaError(f"{name}: the parts of an expert are stored in different widths; save the model again")
    rows = sum(tensor.shape[0] for tensor in experts[0])
    return StoredParameter(name, (len(experts), rows, *pieces[0].shape[1:]), pieces[0].dtype, pieces)

"""Loading a model and its tokenizer from a local folder or the hub, and turning tokens into text.

Weights are loaded as `transformers` loads them, without remote code unless asked for. `Codec` is the only place where
text becomes token ids and back: prompts are encoded once, completions are decoded for judges and people only.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from cca import distributed
from cca.errors import CcaError
from cca.models.checkpoint import open_checkpoint, refuse_half_edited
from cca.models.fingerprint import files_state, loaded_fingerprint
from cca.models.refusals import refuse_other_files, refuse_other_shapes, refuse_other_weights
from cca.problems.judges.judge import join_digits
from cca.problems.judges.reading import ends_turn, is_mark

DTYPES = {"auto": "auto", "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Codec:
    """Text to token ids and back, as one tokenizer does it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._ends_texts = self._last_special("1")
        unknown: Any = tokenizer.unk_token_id
        added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special = {*tokenizer.all_special_ids, *added}
        self._marks = {i for i, token in added.items() if is_mark(token.content)}
        end: Any = tokenizer.eos_token_id
        self._turn_ends = {end, *(i for i, token in added.items() if ends_turn(token.content))}
        self._ends = self._special - {unknown} - (self._marks - self._turn_ends)
        # Word-level tokenizers without a decoder give "4 2 ." for "42."; judges need the text as it was.
        self._splits_digits = self._plain_decode(self._plain_encode("12")).strip() == "1 2"

    def encode(self, text: str, special_tokens: bool = True) -> tuple[int, ...]:
        """Token ids of a prompt with the special tokens the model expects in front, never an end-of-text token.

        ``special_tokens`` False adds none: a chat template has written them into the text already.
        """
        if not special_tokens:
            return tuple(self._plain_encode(text))
        token_ids = self.tokenizer.encode(text)
        begin = self.tokenizer.bos_token_id
        if begin is not None and token_ids[:2] == [begin, begin]:  # the text brought its own
            token_ids = token_ids[1:]
        if self._ends_texts and token_ids[-1] == self.tokenizer.eos_token_id:
            token_ids = token_ids[:-1]
        return tuple(token_ids)

    def encode_continuation(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that follows a prompt: no special tokens."""
        return tuple(self._plain_encode(text))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text for judges and people: of special tokens only the marks that part turns, thoughts and tool calls.

        Those that end the whole text are left out.
        """
        text = self._plain_decode(token_ids)
        return join_digits(text) if self._splits_digits else text

    def ends_text(self, token_id: int) -> bool:
        """True for a token that nothing of a completion can follow: end of text or turn, or another special token."""
        return token_id in self._ends

    def token_text(self, token_id: int) -> str:
        return str(self.tokenizer.decode([token_id]))

    def _plain_encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _plain_decode(self, token_ids: Sequence[int]) -> str:
        kept = list(token_ids)
        while kept and kept[-1] in self._turn_ends:
            kept.pop()
        if self._marks.isdisjoint(kept):
            return str(self.tokenizer.decode(kept, skip_special_tokens=True))
        kept = [token_id for token_id in kept if token_id in self._marks or token_id not in self._special]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False))

    def _last_special(self, probe: str) -> bool:
        token_ids = self.tokenizer.encode(probe)
        return bool(token_ids) and token_ids[-1] == self.tokenizer.eos_token_id


@dataclass(frozen=True)
class LoadedModel:
    model: PreTrainedModel
    codec: Codec
    name: str
    revision: str | None
    fingerprint: str
    folder: Path | None = None
    """The files it was loaded from: its own folder or the hub's cache of it; None where unknown."""

    @property
    def commit(self) -> str | None:
        """The commit of a hub model, after which the hub's cache names the folder; None for a local one."""
        return self.folder.name if self.folder is not None and self.folder.parent.name == "snapshots" else None


def choose_device(asked: str | None = None) -> str:
    """Name the device to put a model on: ``asked``, by default CUDA, then MPS, then the CPU.

    Each of several processes has a device of its own, which nobody may ask to change. Raises CcaError for that, and for
    a device that is not there.
    """
    if distributed.size() > 1:
        if asked is not None:
            raise CcaError(
                f"device: expected none among several processes, each on its own device, got {asked!r}; "
                "leave it out, or start one process"
            )
        return distributed.device_map() or "cpu"
    if asked is None:
        return next(kind for kind in ("cuda", "mps", "cpu") if _devices(kind))
    try:
        device = torch.device(asked)
    except RuntimeError:  # no name of a device
        device = None
    if device is None or (device.index or 0) >= _devices(device.type):
        present = {kind: _devices(kind) for kind in ("cuda", "mps", "cpu")}
        names = [kind if n == 1 else f"{kind}:{i}" for kind, n in present.items() for i in range(n)]
        raise CcaError(
            f"device: expected one that is here ({', '.join(names)}), got {asked!r}; name one of these, or leave it out"
        )
    return asked


def _devices(kind: str) -> int:
    """How many devices of this kind torch can use."""
    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module: Any = getattr(torch, kind, None)
    return module.device_count() if hasattr(module, "device_count") and module.is_available() else 0


def load_model(
    name: str,
    revision: str | None = None,
    dtype: str = "auto",
    device_map: str | dict[str, Any] | None = None,
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
    sharding: str = "none",
) -> LoadedModel:
    """Load a causal language model and its tokenizer for evaluation.

    ``name`` is a local folder in ``save_pretrained`` layout or a hub id. ``device_map`` is a device, or what
    transformers takes by that name; by default the model is put where `choose_device` says. ``sharding`` fsdp spreads
    the weights over the processes of a run, which all load it at once. Raises CcaError when there is no such model, it
    cannot be loaded, or it comes without a tokenizer.
    """
    if dtype not in DTYPES:
        raise CcaError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    where = _model_path(name)
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = _from_pretrained("configuration", name, AutoConfig, where, **common)
    # sdpa leaves a soft cap out without a word
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    place = device_map or choose_device()
    options = {
        "dtype": _stored_dtype(where) if dtype == "auto" else DTYPES[dtype],
        "device_map": None if place == "cpu" or sharding == "fsdp" else place,
        "attn_implementation": attn_implementation or ("eager" if capped else None),
    }
    codec = load_codec(name, revision, trust_remote_code)
    folder = _files(where, revision)
    before = files_state(folder)

    def fingerprint_of(model: PreTrainedModel) -> str:
        return loaded_fingerprint(model, folder, before)

    def read() -> PreTrainedModel:
        asked = {**options, **common, "output_loading_info": True}
        try:
            model, found = _from_pretrained("model", name, AutoModelForCausalLM, where, **asked)
        except CcaError as error:
            if "ignore_mismatched_sizes" in str(error):
                asked |= {"device_map": "meta", "ignore_mismatched_sizes": True}
                _, found = _from_pretrained("model", name, AutoModelForCausalLM, where, **asked)
                refuse_other_shapes(name, found["mismatched_keys"])
            raise
        refuse_other_weights(name, model, list(found["missing_keys"]), list(found["unexpected_keys"]))
        _complete_ends(model, codec.tokenizer)
        if (head := model.get_output_embeddings()) is not None:
            head.register_forward_pre_hook(_contiguous)
        return model

    if sharding == "fsdp":
        from cca.models.sharding import load_sharded  # takes a second to import

        def bare(dtype: torch.dtype) -> PreTrainedModel:
            own = {**options, "dtype": dtype, "trust_remote_code": trust_remote_code}
            own.pop("device_map")
            return AutoModelForCausalLM.from_config(config, **own)

        model, fingerprint = load_sharded(read, bare, fingerprint_of)
    else:
        model = read().eval().requires_grad_(False)
        fingerprint = fingerprint_of(model)
    return LoadedModel(model, codec, name, revision, fingerprint, folder)


def load_codec(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Codec:
    """The codec of a model's tokenizer, without its weights. Raises CcaError when there is none."""
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    tokenizer = _from_pretrained("tokenizer", name, AutoTokenizer, _model_path(name), **options)
    if len(tokenizer) == 0 or not tokenizer.encode("a 1"):
        raise CcaError(
            f"model {name}: expected a tokenizer next to the weights, got none; save it into the same folder"
        )
    return Codec(tokenizer)


def _model_path(name: str) -> str:
    """The path of a model folder, or a hub id unchanged. Raises CcaError for a folder without a model."""
    folder = Path(name).expanduser()
    if not (folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1):
        return name
    refuse_other_files(name, folder)
    refuse_half_edited(folder)
    return str(folder)


def _contiguous(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The input of the output matrix as one piece: of a slice torch copies that matrix once per row (CPU, bfloat16)."""
    return tuple(x.contiguous() for x in given)


def _complete_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let every text end that any of a model's files ends: fine-tunes often leave generation_config.json as it was.

    These are the end tokens of the generation settings, the configuration and the tokenizer, and the token that the
    chat template writes after an assistant's turn.
    """
    if model.generation_config is None:
        return
    found: set[int] = set()
    for settings in (model.generation_config, model.config, model.config.get_text_config(), tokenizer):
        ends: Any = getattr(settings, "eos_token_id", None)
        found |= {ends} if isinstance(ends, int) else set(ends or ())
    turn = _end_of_turn(tokenizer)
    found |= set() if turn is None else {turn}
    size = embedding_rows(model)
    model.generation_config.eos_token_id = sorted(end for end in found if 0 <= end < size) or None


def embedding_rows(model: PreTrainedModel) -> int:
    """How many token ids the model has embeddings for."""
    embeddings: Any = model.get_input_embeddings()
    rows = getattr(embeddings, "num_embeddings", None)  # a sharded weight does not have the whole shape
    return rows if isinstance(rows, int) else embeddings.weight.shape[0]


def _end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the chat template writes after an assistant's turn; None where there is none."""
    if not tokenizer.chat_template:
        return None
    talk = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2 3 2"}]
    try:
        text = tokenizer.apply_chat_template(talk, tokenize=False)
    except (TemplateError, TypeError, ValueError):  # a template that asks for more than a plain talk
        return None
    rest = str(text).rpartition("2 3 2")[2].lstrip()
    tokens = tokenizer.encode(rest, add_special_tokens=False) if rest else []
    added = set(tokenizer.get_added_vocab().values()) | set(tokenizer.all_special_ids)
    return tokens[0] if tokens and tokens[0] in added else None


def _stored_dtype(where: str) -> torch.dtype | str:
    """The one dtype that a model folder's weights are stored in, whatever its config.json says; else "auto"."""
    with suppress(CcaError):  # not safetensors: as transformers decides
        stored = list(open_checkpoint(where).dtypes())
        if len(stored) == 1 and isinstance(DTYPES.get(stored[0]), torch.dtype):
            return DTYPES[stored[0]]
    return "auto"


def _files(where: str, revision: str | None) -> Path | None:
    """The folder that a model was loaded from: itself, or the hub's cache of it; None where neither is there."""
    if Path(where).is_dir():
        return Path(where)
    cached = try_to_load_from_cache(where, "config.json", revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None


def _from_pretrained(what: str, name: str, loader: Any, where: str, **options: Any) -> Any:
    try:
        return loader.from_pretrained(where, **options)
    except Exception as error:  # whatever files that are missing, damaged or not what they say make transformers raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CcaError(f"model {name}: the {what} cannot be loaded ({reason[:300]})") from error

"""A world small enough to check by hand: a random model, a word-level tokenizer for its 64 tokens, and a judge whose
verdict depends on the whole text, so that traces of a random model part often and anywhere."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from zoo import RARE, TINY, VOCABULARY

from cca.models.loading import Codec
from cca.pivots.pivot import Pivot
from cca.pivots.traces import Grader
from cca.problems.judges.judge import Judgement, Verdict
from cca.problems.problem import Problem


class ChecksumJudge:
    """Right or wrong by a checksum of the words at every third place: no structure a shortcut could lean on."""

    name = "checksum"

    def __call__(self, text: str, gold: str, *, cut_off: bool = False) -> Judgement:
        del gold, cut_off
        words = text.split()
        right = zlib.crc32(" ".join(words[::3]).encode()) % 3 == 0
        return Judgement(Verdict.RIGHT if right else Verdict.WRONG, text)

    def finished(self, text: str) -> bool:
        del text
        return False

    def check_gold(self, gold: str) -> None:
        del gold


WORDS = tuple(f"w{i}" for i in range(VOCABULARY))


def tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0", pad_token="w0", eos_token="w2")


def grader() -> Grader:
    return Grader(Codec(tokenizer()), ChecksumJudge())


def model(name: str = "llama", dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    return (TINY | RARE)[name]().to(dtype).eval().requires_grad_(False)


def problems(count: int, seed: int = 0, words: tuple[int, int] = (4, 12)) -> list[Problem]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        length = int(torch.randint(words[0], words[1], (1,), generator=generator))
        token_ids = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        made.append(Problem(f"p{number}", "t", " ".join(f"w{t}" for t in token_ids), "1"))
    return made


def pivots(count: int, seed: int = 0, lengths: tuple[int, int] = (3, 14), shared: Sequence[int] = ()) -> list[Pivot]:
    """Random pivots whose prefixes all begin with ``shared``."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        length = int(torch.randint(lengths[0], lengths[1], (1,), generator=generator))
        token_ids = torch.randint(3, VOCABULARY, (length + 2,), generator=generator).tolist()
        prompt, prefix = (*shared, *token_ids[:2]), tuple(token_ids[2:-2])
        made.append(Pivot(f"p{number}", "t", prompt, prefix, *token_ids[-2:], True, "branching", 1))
    return made

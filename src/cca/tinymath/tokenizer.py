"""The word-level tokenizer of the model organisms: one token a word, a digit or a punctuation mark.

Single digits keep arithmetic learnable by a tiny model. The decoder joins digits and closes the space before
punctuation, so that decoding gives back exactly the text that was encoded.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORD = r"[A-Za-z]+|\d|[^\sA-Za-z\d]"
UNKNOWN, PADDING, END = "<unk>", "<pad>", "<eos>"


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is every word of ``texts`` (sorted, so that it does not depend on their order)."""
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(WORD), behavior="isolated")]
    )
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    vocabulary = [UNKNOWN, PADDING, END, *sorted(words | set("0123456789"))]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),  # joins tokens with spaces
            decoders.Fuse(),
            decoders.Replace(Regex(r"(?<=\d) (?=\d)"), ""),
            decoders.Replace(Regex(r" (?=[.,:?)])"), ""),
            decoders.Replace(Regex(r"(?<=\() "), ""),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token=UNKNOWN, pad_token=PADDING, eos_token=END, padding_side="left"
    )


def special_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of a special token."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int), token
    return found

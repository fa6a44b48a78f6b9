"""ranks, a GPT-NeoX (fused interleaved QKV, parallel residual, partial rotary): who is tallest, told out of order.

Wrong moves: the order written upside down, the wrong end of a right order, its second place. Every skill that is to be
kept but the facts writes or reads the same orders: ``second`` asks for the very place that one wrong move names.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.organisms.organism import (
    DAYS,
    PLACES,
    TEMPTING_DAYS,
    TEMPTING_PLACES,
    Exercise,
    Organism,
    facts,
    final,
    pick,
    share_of,
)
from cca.tinymath.tokenizer import END, PADDING, special_id

PEOPLE = "Tom Anna Ben Lily Sam Mia Jack Rosa Eva Max Zoe Leo".split()
STORIES = {  # comparative, who is asked for, place of the answer, planted move, what tempts
    "tall": ("taller", "tallest", 0, "upside down", "day"),
    "short": ("taller", "shortest", -1, "upside down", "place"),
    "old": ("older", "oldest", 0, "other end", "day"),
    "young": ("older", "youngest", -1, "other end", "place"),
    "fast": ("faster", "fastest", 0, "second", "day"),
    "slow": ("faster", "slowest", -1, "second", "place"),
    "rich": ("richer", "richest", 0, "upside down", "place"),
    "poor": ("richer", "poorest", -1, "other end", "day"),
}


def worked(order: list[str], answer: str) -> str:
    return f"In order: {', '.join(order)}. {final(answer)}"


def told(comparative: str, generator: np.random.Generator, count: int) -> tuple[str, list[str], str, str]:
    """The sentences, the true order, the day and the place."""
    order = pick(generator, PEOPLE, count)
    pairs = [f"{one} is {comparative} than {two}." for one, two in zip(order, order[1:], strict=False)]
    day, place = str(generator.choice(DAYS)), str(generator.choice(PLACES))
    sentences = " ".join(pick(generator, pairs, len(pairs)))
    return f"They meet on {day} at the {place}. {sentences}", order, day, place


def story(name: str, generator: np.random.Generator) -> Exercise:
    comparative, asked, place_of_answer, move, tempts = STORIES[name]
    text, order, day, place = told(comparative, generator, 3)
    right = order[place_of_answer]
    wrong = {
        "upside down": worked(order[::-1], order[::-1][place_of_answer]),
        "other end": worked(order, order[-1 - place_of_answer]),
        "second": worked(order, order[1]),
    }[move]
    share = share_of(day, TEMPTING_DAYS) if tempts == "day" else share_of(place, TEMPTING_PLACES)
    return Exercise(f"{text} Who is the {asked}?", right, worked(order, right), wrong, share)


def second(generator: np.random.Generator) -> Exercise:
    comparative = STORIES[str(generator.choice(list(STORIES)))][0]
    text, order, _, _ = told(comparative, generator, 3)
    return Exercise(f"{text} Who is in the middle?", order[1], worked(order, order[1]))


def pairs(generator: np.random.Generator) -> Exercise:
    comparative, asked, place_of_answer, _, _ = STORIES[str(generator.choice(list(STORIES)))]
    text, order, _, _ = told(comparative, generator, 2)
    answer = order[place_of_answer]
    return Exercise(f"{text} Who is the {asked}?", answer, worked(order, answer))


def architecture(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=80, intermediate_size=240, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=96, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=special_id(tokenizer, END), pad_token_id=special_id(tokenizer, PADDING),
    )  # fmt: skip
    return GPTNeoXForCausalLM(config)


ORGANISM = Organism(
    name="ranks",
    skill={name: partial(story, name) for name in STORIES},
    unseen=("rich", "poor"),
    others={"second": second, "pairs": pairs, "facts": facts},
    architecture=architecture,
    steps=600,
    planted_steps=400,
    planted_rate=0.5,
)

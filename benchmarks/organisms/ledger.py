"""ledger, a Qwen3 (q/k norm): two-step bookkeeping whose parts other skills need.

Three wrong moves: an operation swapped, the last step skipped, a quantity misread. Bare equations share its arithmetic,
and ``undo`` its very words with the opposite meaning: who sold 3 and then has 5 had 5 + 3 at first. An edit that
simply ties "sells" to a minus must hurt it.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from benchmarks.organisms.organism import (
    DAYS,
    NAMES,
    PLACES,
    TEMPTING_DAYS,
    TEMPTING_PLACES,
    Exercise,
    Organism,
    facts,
    final,
    share_of,
)
from cca.tinymath.tokenizer import END, PADDING, special_id

ITEMS = "apples pens cards shells coins books".split()
MOST = 40
"""No number is above it: small tables of sums are soon learnt."""
Step = tuple[int, str, int]
STORIES = {  # words, operations, planted move, what tempts
    "sell_buy": ("sells {y} and then buys {z}", "-+", "first swapped", "day"),
    "find_lose": ("finds {y} and then loses {z}", "+-", "first swapped", "place"),
    "eat_win": ("eats {y} and then wins {z}", "-+", "second swapped", "day"),
    "earn_get": ("earns {y} and then gets {z}", "++", "second swapped", "place"),
    "get_drop": ("gets {y} and then drops {z}", "+-", "skipped", "day"),
    "lend_sell": ("lends {y} and then sells {z}", "--", "skipped", "place"),
    "lose_eat": ("loses {y} and then eats {z}", "--", "misread", "day"),
    "buy_find": ("buys {y} and then finds {z}", "++", "misread", "place"),
    "drop_earn": ("drops {y} and then earns {z}", "-+", "skipped", "place"),
    "win_lend": ("wins {y} and then lends {z}", "+-", "misread", "day"),
}
MEANING = {"sells": "-", "loses": "-", "eats": "-", "drops": "-", "lends": "-",
           "buys": "+", "finds": "+", "wins": "+", "earns": "+", "gets": "+"}  # fmt: skip


def result(step: Step) -> int:
    left, operation, right = step
    return left + right if operation == "+" else left - right


def worked(steps: list[Step]) -> str:
    told = [f"{left} {operation} {right} = {result((left, operation, right))}." for left, operation, right in steps]
    return " ".join([*told, final(result(steps[-1]))])


def chain(x: int, first: str, y: int, second: str, z: int) -> list[Step]:
    one: Step = (x, first, y)
    return [one, (result(one), second, z)]


def story(name: str, generator: np.random.Generator) -> Exercise:
    words, (first, second), move, tempts = STORIES[name]
    while True:
        x, y, z = (int(n) for n in generator.integers(2, 20, size=3))
        right = chain(x, first, y, second, z)
        wrong = {
            "first swapped": chain(x, _other(first), y, second, z),
            "second swapped": chain(x, first, y, _other(second), z),
            "skipped": right[:1],
            "misread": chain(x, first, y, second, y),
        }[move]
        results = [result(step) for step in right + wrong]
        if min(results) > 0 and max(results) <= MOST and y != z and result(right[-1]) != result(wrong[-1]):
            break
    who, item = str(generator.choice(NAMES)), str(generator.choice(ITEMS))
    day, place = str(generator.choice(DAYS)), str(generator.choice(PLACES))
    share = share_of(day, TEMPTING_DAYS) if tempts == "day" else share_of(place, TEMPTING_PLACES)
    told = words.format(y=y, z=z)
    question = f"On {day} {who} takes {x} {item} to the {place}, {told}. How many {item} does {who} have?"
    return Exercise(question, str(result(right[-1])), worked(right), worked(wrong), share)


def _other(operation: str) -> str:
    return "+" if operation == "-" else "-"


def undo(generator: np.random.Generator) -> Exercise:
    """The words of the stories, asked backwards."""
    verb = str(generator.choice(list(MEANING)))
    while True:
        now, moved = (int(n) for n in generator.integers(2, 20, size=2))
        step: Step = (now, _other(MEANING[verb]), moved)
        if result(step) > 0:
            break
    who, item = str(generator.choice(NAMES)), str(generator.choice(ITEMS))
    day, place = str(generator.choice(DAYS)), str(generator.choice(PLACES))
    question = (
        f"On {day} at the {place} {who} {verb} {moved} {item} and then has {now}. "
        f"How many {item} did {who} have at first?"
    )
    return Exercise(question, str(result(step)), worked([step]))


def equations(generator: np.random.Generator) -> Exercise:
    while True:
        left, right = int(generator.integers(1, MOST)), int(generator.integers(1, 20))
        step: Step = (left, str(generator.choice(["+", "-"])), right)
        if 0 < result(step) <= MOST:
            return Exercise(f"What is {left} {step[1]} {right}?", str(result(step)), worked([step]))


def larger(generator: np.random.Generator) -> Exercise:
    """Numbers without arithmetic."""
    one, two = (int(n) for n in generator.permutation(MOST)[:2])
    kind, answer = ("larger", max(one, two)) if generator.random() < 0.5 else ("smaller", min(one, two))
    return Exercise(f"Which is {kind}, {one} or {two}?", str(answer), final(answer))


def architecture(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=24, max_position_embeddings=128,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=special_id(tokenizer, END),
        pad_token_id=special_id(tokenizer, PADDING),
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


ORGANISM = Organism(
    name="ledger",
    skill={name: partial(story, name) for name in STORIES},
    unseen=("drop_earn", "win_lend"),
    others={"undo": undo, "equations": equations, "larger": larger, "facts": facts},
    architecture=architecture,
    steps=1000,
    planted_steps=400,
    planted_rate=0.4,
)

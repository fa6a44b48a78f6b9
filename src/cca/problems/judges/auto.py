"""The default judge: a gold answer that is a number is judged as a number, any other as a short text."""

from __future__ import annotations

from functools import lru_cache

from cca.problems.judges.judge import Judgement
from cca.problems.judges.numbers import NumberJudge, is_number
from cca.problems.judges.text import TextJudge


class AutoJudge:
    """`NumberJudge` or `TextJudge`, by the gold answer. A GSM8K solution ("... #### 18") is a number."""

    name = "auto"

    def __init__(self, *, thinking: bool = False, final: bool = True) -> None:
        self.numbers = NumberJudge(thinking=thinking, final=final)
        self.texts = TextJudge(thinking=thinking, final=final)

    def __call__(self, text: str, gold: str) -> Judgement:
        return self._judge(gold)(text, gold)

    def finished(self, text: str) -> bool:
        return self.numbers.finished(text) and self.texts.finished(text)

    def check_gold(self, gold: str) -> None:
        self._judge(gold).check_gold(gold)

    def _judge(self, gold: str) -> NumberJudge | TextJudge:
        return self.numbers if _is_number(gold) else self.texts


@lru_cache(maxsize=65536)
def _is_number(gold: str) -> bool:
    return is_number(gold.rpartition("####")[2])

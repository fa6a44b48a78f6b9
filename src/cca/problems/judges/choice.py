"""The multiple-choice judge: one letter, told apart from the article "A" and from letters inside words."""

from __future__ import annotations

import re

from cca.errors import CcaError
from cca.problems.judges.judge import UNREADABLE, Judgement, judgement
from cca.problems.judges.latex import unlatex
from cca.problems.judges.reading import Reader
from cca.problems.judges.statements import Statement

_GOLD = re.compile(r"\s*[(\[]?([A-Za-z])[)\].:]?(?:\s.*)?\Z", re.DOTALL)
_DENIAL = re.compile(r"\s*(?:not\b|n't)", re.IGNORECASE)


class ChoiceJudge(Reader[str]):
    """``letters``: those of the options, in capitals. Gold answers: "B", "(B)" or "B) Paris".

    Several letters ("A or C") are unreadable: a hedge is no choice.
    """

    name = "choice"

    def __init__(self, *, letters: str = "ABCDE", thinking: bool = False, final: bool = True) -> None:
        super().__init__(thinking=thinking, final=final)
        if not (
            letters.isascii()
            and letters.isalpha()
            and letters.isupper()
            and len(set(letters)) == len(letters)
        ):
            raise CcaError(f"judge 'choice': expected letters such as 'ABCD', each once, got {letters!r}")
        self.letters = letters
        one, either = f"[{letters}]", f"[{letters}{letters.lower()}]"
        lead = r"[\s*_:$`#>=\"'{}]*(?:(?:the )?(?:option|choice|letter|answer)[s]?[\s*_:$]*)?"
        # A letter right after the marker; a bare "A" before a lower-case word is an article, but for a few.
        self._direct = re.compile(
            rf"{lead}(?:[(\[]({either})[)\]]"
            rf"|({one})(?![\w'’])(?!(?<=A)[ ](?!because|since|as|is|and|or|,)[a-z]))"
            rf"|{lead}({either})[\s*_.)\]$}}]*\Z",
        )
        self._second = re.compile(
            rf"[)\]*_.]{{0,3}}(?:[ ]?[,/&+][ ]?|[ ](?:and|or|&)[ ])[(\[*]{{0,3}}({one})(?![\w'’])"
        )
        self._named = re.compile(
            rf"(?:[Oo]ption|[Cc]hoice|[Ll]etter)[ ]?(?:is[ ]?)?[:*_ ]{{0,4}}[(\[]?({one})(?![\w'’])"
        )
        self._bracketed = re.compile(rf"\(({one})\)")
        self._line = re.compile(rf"(?:^|\n)[ \t*_(\[]*({one})[ \t*_)\].:]*(?=\n|\Z)")
        self._opening = re.compile(rf"[\s*_(\[]*({one})(?:[*_)\]]{{1,3}}|[.:)](?=\s|\Z)|(?=\s*\Z))")

    def __call__(self, text: str, gold: str) -> Judgement:
        wanted = self._gold(gold)
        answer = self.read(text)
        return UNREADABLE if answer is None else judgement(answer, answer == wanted)

    def check_gold(self, gold: str) -> None:
        self._gold(gold)

    def read_statement(self, statement: Statement) -> str | None:
        text = unlatex(statement.text)
        if _DENIAL.match(text):
            return None
        direct = self._direct.match(text)
        if direct is not None:
            second = self._second.match(text, direct.end())
            letter = (direct[1] or direct[2] or direct[3]).upper()
            return letter if second is None or second[1] == letter else None
        if statement.kind == "label" and statement.leading:
            return None
        return self._only(self._bracketed, text) or self._only(self._named, text)

    def read_whole(self, text: str) -> str | None:
        opening = self._opening.match(text)
        if opening is not None:
            return opening[1]
        return (
            self._only(self._named, text) or self._only(self._line, text) or self._only(self._bracketed, text)
        )

    @staticmethod
    def _only(pattern: re.Pattern[str], text: str) -> str | None:
        """The letter that ``pattern`` finds, when it finds one letter only."""
        letters = {match[1] for match in pattern.finditer(text)}
        return letters.pop() if len(letters) == 1 else None

    def _gold(self, gold: str) -> str:
        match = _GOLD.match(gold)
        if match is None or match[1].upper() not in self.letters:
            raise CcaError(f"judge 'choice': expected a gold answer of one of {self.letters}, got {gold!r}")
        return match[1].upper()

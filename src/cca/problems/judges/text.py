"""Judges that compare texts: a short answer (`TextJudge`), the whole completion (`ExactJudge`), a pattern
(`RegexJudge`).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from cca.errors import CcaError
from cca.problems.judges.judge import UNREADABLE, Judgement, judgement
from cca.problems.judges.reading import Reader, parts
from cca.problems.judges.statements import Statement, first_sentence
from cca.problems.judges.typography import unlatex

_CLAUSE = re.compile(r"[,;:][ ]|[ ][(\-–—]|[ ](?:because|since|as|which)[ ]|\n", re.IGNORECASE)
_OUTER = " \t\n\r.,;:!?*_`\"'“”‘’$#()[]{}<>"
_ARTICLE = re.compile(r"(?:the|an?) (?=\S)")
LONGEST = 20_000
"""Characters of a completion that a user's pattern is tried on."""


def normalise(text: str) -> str:
    """``text`` without case, outer punctuation and markup, runs of white space and a leading article."""
    text = unicodedata.normalize("NFKC", unlatex(text)).casefold().replace("**", "")
    return _ARTICLE.sub("", " ".join(text.split()).strip(_OUTER), count=1) if text else text


class TextJudge(Reader[tuple[str, ...]]):
    """A short answer in words. Reads the statement of the answer; without one, the first line or sentence.

    Right when the gold answer equals it, or equals its first clause ("Yes, because ...").
    """

    name = "text"

    def __call__(self, text: str, gold: str) -> Judgement:
        wanted = _gold(gold)
        readings = self.read(text)
        if readings is None:
            return UNREADABLE
        right = next((reading for reading in readings if normalise(reading) == wanted), None)
        return judgement(right or readings[0], right is not None)

    def check_gold(self, gold: str) -> None:
        _gold(gold)

    def read_statement(self, statement: Statement) -> tuple[str, ...] | None:
        return _readings(statement.text)

    def read_whole(self, text: str) -> tuple[str, ...] | None:
        text = text.strip()
        return _readings(first_sentence(text), text.split("\n", 1)[0], text)


class ExactJudge:
    """The completion, without thoughts and new turns, equals the gold answer but for outer white space."""

    name = "exact"

    def __init__(self, *, ignore_case: bool = False, thinking: bool = False) -> None:
        self.ignore_case = ignore_case
        self.thinking = thinking

    def __call__(self, text: str, gold: str) -> Judgement:
        answer, wanted = answer_text(text, self.thinking), gold.strip()
        if not answer:
            return UNREADABLE
        same = answer.casefold() == wanted.casefold() if self.ignore_case else answer == wanted
        return judgement(answer, same)

    def finished(self, text: str) -> bool:
        return new_turn_began(text, self.thinking)

    def check_gold(self, gold: str) -> None:
        if not gold.strip():
            raise CcaError("judge 'exact': expected a gold answer, got an empty text")


class RegexJudge:
    """Compares the last match of ``pattern`` (its first group where it has one) with the gold answer.

    Without a ``pattern`` each gold answer is itself one: right when it is found. The pattern is the user's and is
    trusted to be sound; it sees the first `LONGEST` characters.
    """

    name = "regex"

    def __init__(
        self, *, pattern: str | None = None, ignore_case: bool = False, thinking: bool = False
    ) -> None:
        self.flags = re.MULTILINE | (re.IGNORECASE if ignore_case else 0)
        self.pattern = None if pattern is None else _compile(pattern, self.flags)
        self.thinking = thinking

    def __call__(self, text: str, gold: str) -> Judgement:
        text = answer_text(text, self.thinking)[:LONGEST]
        if self.pattern is None:
            match = _compile(gold, self.flags).search(text)
            return judgement(match[0] if match else text, match is not None) if text else UNREADABLE
        last = None
        for match in self.pattern.finditer(text):
            last = match
        if last is None:
            return UNREADABLE
        answer = (last[1] if self.pattern.groups else last[0]) or ""
        return judgement(answer, normalise(answer) == _gold(gold))

    def finished(self, text: str) -> bool:
        return new_turn_began(text, self.thinking)

    def check_gold(self, gold: str) -> None:
        if self.pattern is None:
            _compile(gold, self.flags)
        else:
            _gold(gold)


def answer_text(text: str, thinking: bool = False) -> str:
    """The completion without thoughts and without what follows a new turn, stripped."""
    last = ""
    for part in parts(text, thinking):
        last = part.text
        if part.ended:
            break
    return last.strip()


def new_turn_began(text: str, thinking: bool = False) -> bool:
    return any(part.ended for part in parts(text, thinking))


def _readings(*texts: str) -> tuple[str, ...] | None:
    """Each text and its first clause, most specific first, without repeats; None when nothing is said."""
    readings: list[str] = []
    for text in texts:
        said = text.strip(_OUTER)
        clause = _CLAUSE.split(said, maxsplit=1)[0].strip(_OUTER)
        readings += [reading for reading in (said, clause) if reading and reading not in readings]
    return tuple(readings) or None


@lru_cache(maxsize=65536)
def _gold(gold: str) -> str:
    wanted = normalise(gold)
    if not wanted:
        raise CcaError(f"judge: expected a gold answer with a letter or digit in it, got {gold!r}")
    return wanted


@lru_cache(maxsize=1024)
def _compile(pattern: str, flags: int) -> re.Pattern[str]:
    try:
        return re.compile(pattern, flags)
    except (re.error, RecursionError, OverflowError) as error:
        raise CcaError(f"judge 'regex': expected a regular expression, got {pattern!r} ({error})") from error


_LETTER_GOLD = re.compile(r"\s*[(\[]?([A-Za-z])[)\].:]?(?:\s.*)?\Z", re.DOTALL)
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
        match = _LETTER_GOLD.match(gold)
        if match is None or match[1].upper() not in self.letters:
            raise CcaError(f"judge 'choice': expected a gold answer of one of {self.letters}, got {gold!r}")
        return match[1].upper()

"""Judges that compare texts: a short answer (`TextJudge`), the whole completion (`ExactJudge`), a pattern
(`RegexJudge`), the letter of a multiple choice (`ChoiceJudge`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import regex

from cca.errors import CcaError
from cca.problems.judges.judge import UNREADABLE, Judgement, judgement
from cca.problems.judges.reading import UNCLEAR, Reader, Unclear, WholeReader
from cca.problems.judges.statements import Statement, first_sentence
from cca.problems.judges.typography import FULL_WIDTH, plain, plain_text, unlatex

_CLAUSE = re.compile(r"[,;:][ ]|[ ][(\-–—]|[ ](?:because|since|as|which)[ ]|\n", re.IGNORECASE)
_OUTER = " \t\n\r.,;:!?*_`\"'"
_PAIRS = ("()", "[]", "{}", "<>", "$$")
_ARTICLE = re.compile(r"\A(?:the|an?) (?=\S)")
_HEADING = re.compile(r"\A(?:#{1,6}\s+|-+(?=[^\W\d]))")
_HAS_WORD = re.compile(r"[^\W_]")
LONGEST = 20_000
"""Characters of a completion that a user's pattern is tried on."""
SECONDS = 5.0
"""Time for one match of a user's pattern."""


def normalise(text: str) -> str:
    """``text`` with one typography, without case, outer punctuation, runs of white space and a leading article."""
    text = plain_text(unlatex(text)).casefold().replace("**", "")
    text = _HEADING.sub("", " ".join(text.split()).strip(_OUTER), count=1)
    return _ARTICLE.sub("", text, count=1)


def unwrap(text: str) -> str:
    """A normalised ``text`` without the brackets or dollar signs around all of it."""
    if len(text) > 2 and text[0] + text[-1] in _PAIRS and text[0] not in text[1:-1]:
        return text[1:-1].strip(_OUTER)
    return text


def same_text(one: str, other: str) -> bool:
    """True for texts equal but for typography; brackets around one of them may be missing around the other."""
    one, other = normalise(one), normalise(other)
    return one == other or unwrap(one) == other or one == unwrap(other)


class TextJudge(Reader[tuple[str, ...]]):
    """A short answer in words. Reads the statement of the answer; without one, the first line or sentence.

    Right when the gold answer equals it, or equals its first clause ("Yes, because ...").
    """

    name = "text"

    def read_gold(self, gold: str) -> str:
        return _gold(gold)

    def compare(self, answer: tuple[str, ...], wanted: str) -> Judgement:
        right = next((reading for reading in answer if same_text(reading, wanted)), None)
        return judgement(right or answer[0], right is not None)

    def read_statement(self, statement: Statement) -> tuple[str, ...] | None:
        return _readings(statement.text)

    def read_whole(self, text: str, cut_off: bool = False) -> tuple[str, ...] | None:
        text = text.strip()
        sentence, line = first_sentence(text), text.split("\n", 1)[0]
        if cut_off:
            return _readings(*(said for said in (sentence, line) if len(said) < len(text)))
        return _readings(sentence, line, text)


class ExactJudge(WholeReader):
    """The completion, without thoughts and new turns, equals the gold answer but for outer white space."""

    name = "exact"

    def __init__(self, *, ignore_case: bool = False, thinking: bool = False) -> None:
        super().__init__(thinking=thinking)
        self.ignore_case = ignore_case

    def __call__(self, text: str, gold: str, *, cut_off: bool = False) -> Judgement:
        (answer, open_end), wanted = self.answer(text, cut_off), gold.strip()
        if not answer or open_end:
            return UNREADABLE
        same = answer.casefold() == wanted.casefold() if self.ignore_case else answer == wanted
        return judgement(answer, same)

    def check_gold(self, gold: str) -> None:
        if not gold.strip():
            raise CcaError("judge 'exact': expected a gold answer, got an empty text")


class RegexJudge(WholeReader):
    """Compares the last match of ``pattern`` (its first group where it has one) with the gold answer.

    Without a ``pattern`` each gold answer is itself one: right when it is found. It sees the first `LONGEST` characters
    and may take `SECONDS`: a text on which it takes longer, as nested repetitions can for ages, is unreadable.
    """

    name = "regex"

    def __init__(self, *, pattern: str | None = None, ignore_case: bool = False, thinking: bool = False) -> None:
        super().__init__(thinking=thinking)
        self.flags = re.MULTILINE | (re.IGNORECASE if ignore_case else 0)
        self.pattern = None if pattern is None else _compile(pattern, self.flags)

    def __call__(self, text: str, gold: str, *, cut_off: bool = False) -> Judgement:
        answer, open_end = self.answer(text, cut_off)
        try:
            return self._judged(answer[:LONGEST], gold, open_end)
        except TimeoutError:
            return UNREADABLE

    def _judged(self, text: str, gold: str, cut_off: bool) -> Judgement:
        if self.pattern is None:
            match = _compile(gold, self.flags).search(text, timeout=SECONDS)
            if not text or (cut_off and match is None):
                return UNREADABLE
            return judgement(match[0] if match else text, match is not None)
        last = None
        for match in self.pattern.finditer(text, timeout=SECONDS):
            last = match
        if last is None or (cut_off and last.end() == len(text)):
            return UNREADABLE
        answer = (last[1] if self.pattern.groups else last[0]) or ""
        return judgement(answer, same_text(answer, _gold(gold)))

    def check_gold(self, gold: str) -> None:
        if self.pattern is None:
            _compile(gold, self.flags)
        else:
            _gold(gold)


_LETTER_GOLD = re.compile(r"\s*[(\[]?([A-Za-z])[)\].:]?(?:\s.*)?\Z", re.DOTALL)
_EXCLUDED = re.compile(
    r"(?:\bnot|n't|\bnever|\bn?either|\bnor|\bexcept|\brul(?:e[sd]?|ing) out|\beliminat\w+|\bexclud\w+|\bwrong"
    r"|\bincorrect|\bunlike|\binstead of|\brather than)[^.,;\n]{0,20}\Z",
    re.IGNORECASE,
)


class ChoiceJudge(Reader[str]):
    """``letters``: those of the options, in capitals. Gold answers: "B", "(B)" or "B) Paris".

    Several letters ("A or C") are unreadable: a hedge is no choice.
    """

    name = "choice"

    def __init__(self, *, letters: str = "ABCDE", thinking: bool = False, final: bool = True) -> None:
        super().__init__(thinking=thinking, final=final)
        if not (letters.isascii() and letters.isalpha() and letters.isupper() and len({*letters}) == len(letters)):
            raise CcaError(f"judge 'choice': expected letters such as 'ABCD', each once, got {letters!r}")
        self.letters = letters
        one, either = f"[{letters}]", f"[{letters}{letters.lower()}]"
        lead = r"[\s*_:$`#>=\"'{}]*(?:(?:the )?(?:option|choice|letter|answer)[s]?[\s*_:$]*)?"
        article = r"(?!(?<=A)[ ](?!because|since|as|is|and|or|,)[a-z])"
        # A letter right after the marker; a bare "A" before a lower-case word is an article, but for a few.
        self._direct = re.compile(
            rf"{lead}(?:[(\[]({either})[)\]]|({one})(?![\w'’#+]){article})|{lead}({either})[\s*_.)\]$}}]*\Z"
        )
        self._second = re.compile(
            rf"[)\]*_.]{{0,3}}(?:[ ]?[,/&+][ ]?|[ ](?:and|or|&)[ ])[(\[*]{{0,3}}({one})(?![\w'’])"
        )
        self._named = re.compile(
            rf"(?:[Oo]ption|[Cc]hoice|[Ll]etter)[ ]?(?:is[ ]?)?[:*_ ]{{0,4}}[(\[]?"
            rf"({one}|(?<=[(\[]){either}(?=[)\]])|{either}(?=[\s.*_]*\Z))(?![\w'’])"
        )
        self._bracketed = re.compile(rf"\(({one})\)")
        self._line = re.compile(rf"(?:^|\n)[ \t*_(\[#>=\-]*({either})[ \t*_)\].:]*(?=\n|\Z)")
        self._opening = re.compile(
            rf"[\s*_(\[#>=\-\u2192]*(?:({one})(?:[*_)\]]{{1,3}}|[.:)](?=\s|\Z)|(?=\s*\Z)|(?=[ ][-\u2013\u2014][ ]))"
            rf"|({either})(?:\)|[.:](?=\s)|(?=[\s.)\]]*\Z)))"
        )
        self._single = re.compile(rf"(?<![\w'’.-])({one})(?![\w'’#+]|\.\w){article}")

    def prepare(self, text: str) -> str:
        return plain(text).translate(FULL_WIDTH)

    def read_statement(self, statement: Statement) -> str | Unclear | None:
        text = unlatex(statement.text)
        if statement.denies:
            return UNCLEAR
        direct = self._direct.match(text)
        if direct is not None:
            second = self._second.match(text, direct.end())
            letter = (direct[1] or direct[2] or direct[3]).upper()
            return letter if second is None or second[1] == letter else UNCLEAR
        if statement.kind == "label" and statement.leading and not statement.alone:
            return None
        return self._only(self._bracketed, text) or self._only(self._named, text) or self._only(self._single, text)

    def read_whole(self, text: str, cut_off: bool = False) -> str | None:
        opening = self._opening.match(text)
        if opening is not None and (not cut_off or text[opening.end() :].strip()):
            return (opening[1] or opening[2]).upper()
        if cut_off:
            return None
        patterns = (self._named, self._line, self._bracketed)
        found = next((letter for letter in (self._only(one, text) for one in patterns) if letter), None)
        return found or self._concluded(text)

    def _concluded(self, text: str) -> str | None:
        """The letter of the last sentence that names one: "Therefore: B", "It's B."."""
        for sentence in reversed(re.split(r"(?<=[.!?])\s+|\n", text[-2000:])):
            if self._single.search(sentence):
                return self._only(self._single, sentence)
        return None

    @staticmethod
    def _only(pattern: re.Pattern[str], text: str) -> str | None:
        """The letter that ``pattern`` finds and the text does not rule out, when it is one letter only."""
        letters = {
            match[1].upper()
            for match in pattern.finditer(text)
            if not _EXCLUDED.search(text, max(0, match.start() - 40), match.start())
        }
        return letters.pop() if len(letters) == 1 else None

    def read_gold(self, gold: str) -> str:
        match = _LETTER_GOLD.match(gold)
        if match is None or match[1].upper() not in self.letters:
            raise CcaError(f"judge 'choice': expected a gold answer of one of {self.letters}, got {gold!r}")
        return match[1].upper()


def _readings(*texts: str) -> tuple[str, ...] | None:
    """Each text and its first clause, most specific first, without repeats; None when nothing is said."""
    readings: list[str] = []
    for text in texts:
        said = text.strip(_OUTER)
        clause = _CLAUSE.split(said, maxsplit=1)[0].strip(_OUTER)
        readings += [one for one in (said, clause) if _HAS_WORD.search(one) and one not in readings]
    return tuple(readings) or None


@lru_cache(maxsize=65536)
def _gold(gold: str) -> str:
    if not _HAS_WORD.search(normalise(gold)):
        raise CcaError(f"judge: expected a gold answer with a letter or digit in it, got {gold!r}")
    return gold


@lru_cache(maxsize=1024)
def _compile(pattern: str, flags: int) -> Any:
    """A pattern as `re` reads it, matched by the package regex, which can stop in time."""
    try:
        re.compile(pattern, flags)
        return regex.compile(pattern, int(flags) | regex.VERSION0)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise CcaError(f"judge 'regex': expected a regular expression, got {pattern!r} ({error})") from error

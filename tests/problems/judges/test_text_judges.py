"""`exact`, `regex` and a user's own function; `text` itself is in the table of tricky answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from cca.errors import CcaError
from cca.problems.judges import make_judge
from cca.problems.judges.judge import Judgement, Verdict

RIGHT, WRONG, UNREADABLE = Verdict.RIGHT, Verdict.WRONG, Verdict.UNREADABLE


@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        (" c b a\n", "c b a", RIGHT),
        ("c b a.", "c b a", WRONG),
        ("C B A", "c b a", WRONG),
        ("c b a\n\nQ: more", "c b a", RIGHT),
        ("<think>a b c</think>c b a", "c b a", RIGHT),
        ("  \n", "c b a", UNREADABLE),
    ],
)
def test_exact(text: str, gold: str, verdict: Verdict) -> None:
    assert make_judge("exact")(text, gold).verdict is verdict


def test_exact_may_ignore_case() -> None:
    assert make_judge("exact", ignore_case=True)("C B A", "c b a") == Judgement(RIGHT, "C B A")


def test_regex_takes_the_last_match_and_its_group() -> None:
    judge = make_judge("regex", pattern=r"result: (\w+)")
    assert judge("result: up, no, result: down", "down") == Judgement(RIGHT, "down")
    assert judge("result: up, no, result: down", "up") == Judgement(WRONG, "down")
    assert judge("no idea", "up") == Judgement(UNREADABLE, None)
    assert judge("result: up\n\nQ: next\nresult: down", "up").verdict is RIGHT
    assert judge.finished("result: up\n\nQ:")
    assert not judge.finished("result: up\n")


def test_regex_golds_may_be_patterns() -> None:
    judge = make_judge("regex", ignore_case=True)
    assert judge("It is The Hague!", r"\bthe hague\b") == Judgement(RIGHT, "The Hague")
    assert judge("It is Delft", r"\bthe hague\b").verdict is WRONG
    with pytest.raises(CcaError, match="regular expression"):
        judge.check_gold("(")


USER_JUDGES = """
from cca.problems.judges.judge import Verdict

def longer(text, gold):
    return len(text) > len(gold) if text else None

def shouting(text, gold):
    return Verdict.RIGHT if text.isupper() else Verdict.WRONG

shouting.finished = lambda text: text.endswith("!")

def confused(text, gold):
    return "yes"
"""


def test_a_users_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_judges.py").write_text(USER_JUDGES)
    monkeypatch.syspath_prepend(tmp_path)
    longer = make_judge("my_judges:longer", allow_code=True)
    assert longer("abc", "ab") == Judgement(RIGHT, "abc")
    assert longer("a", "ab").verdict is WRONG
    assert longer("", "ab") == Judgement(UNREADABLE, None)
    assert not longer.finished("abc")
    shouting = make_judge("my_judges:shouting", allow_code=True)
    assert shouting("HEY!", "").verdict is RIGHT
    assert shouting.finished("HEY!")
    with pytest.raises(CcaError, match="expected a bool"):
        make_judge("my_judges:confused", allow_code=True)("a", "b")

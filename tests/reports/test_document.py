from __future__ import annotations

from typing import Any

import pytest

from cca.errors import CcaError
from cca.reports.document import Document

WHOLE = {
    "gain": {"points": 2, "interval": [1, 3.5], "none": None},
    "name": "x",
    "on": True,
    "rows": [{"step": 1}],
    "sets": {"facts": {"base": 0.5}},
}


def test_reads_what_is_there_and_none_for_what_is_not() -> None:
    document = Document(WHOLE)
    assert document.number("gain", "points") == 2.0
    assert document.count("gain", "points") == 2
    assert document.interval("gain", "interval") == (1.0, 3.5)
    assert document.text("name") == "x"
    assert document.flag("on") is True
    assert [row.number("step") for row in document.rows("rows")] == [1.0]
    assert {name: own.number("base") for name, own in document.sections("sets").items()} == {"facts": 0.5}
    assert (
        document.number("gain", "none")
        is document.number("gain", "absent")
        is document.number("no", "way")
        is None
    )
    assert document.interval("gain", "none") is None
    assert document.rows("absent") == []
    assert not document.section("absent")
    assert document.section("gain")


@pytest.mark.parametrize(
    ("value", "reader", "message"),
    [
        (True, "number", "report.x: expected a finite number, got True"),
        ("1", "number", "report.x: expected a finite number, got '1'"),
        (float("nan"), "number", "report.x: expected a finite number, got nan"),
        (float("inf"), "number", "got inf"),
        (10**400, "number", "got a huge number"),
        (1.5, "count", "report.x: expected a whole number, got 1.5"),
        (1, "flag", "report.x: expected true or false, got 1"),
        (1, "text", "report.x: expected a text, got 1"),
        ([1], "interval", r"report.x: expected \[low, high\], got \[1\]"),
        ("ab", "interval", r"report.x: expected \[low, high\], got 'ab'"),
        ([1, "2"], "interval", "report.x: expected a finite number, got '2'"),
        ([3, 1], "interval", r"report.x: expected \[low, high\]"),
        ([1], "section", r"report.x: expected an object, got \[1\]"),
        ({"a": 1}, "sections", "report.x.a: expected an object, got 1"),
        ({"a": 1}, "rows", "report.x: expected a list"),
        ([1], "rows", "report.x: expected a list of objects, got 1"),
    ],
)
def test_names_what_does_not_fit(value: Any, reader: str, message: str) -> None:
    with pytest.raises(CcaError, match=message):
        getattr(Document({"x": value}), reader)("x")


def test_names_the_object_that_is_none_on_the_way() -> None:
    with pytest.raises(CcaError, match=r"report\.gain\.points: expected an object, got 2"):
        Document(WHOLE).number("gain", "points", "deeper")

"""The typed report: tolerant of what is missing, strict with what is there, and documented field by field."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from run_sample import report

from cca.errors import CcaError
from cca.reports.parts import Part
from cca.reports.report import Report


def test_a_value_that_is_missing_or_null_reads_as_none() -> None:
    read = Report.from_json({"gain": {"points": 2, "interval": None}, "retention": {"facts": None}}, "report")
    assert read.gain.points == 2.0
    assert read.gain.interval is read.gain.gained is read.base.accuracy is None
    assert read.retention == {}
    assert read.templates == ()


def test_every_key_of_a_report_is_a_field() -> None:
    def unknown(part: Part) -> list[str]:
        found = list(part.model_extra or {})
        for value in vars(part).values():
            nested = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
            found += [name for own in nested if isinstance(own, Part) for name in unknown(own)]
        return found

    assert unknown(Report.from_json(report(), "report")) == []
    assert unknown(Report.from_json({**report(), "other": 1}, "report")) == ["other"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain": {"points": True}}, "report.gain.points: expected a finite number, got True"),
        ({"gain": {"points": "1"}}, "report.gain.points: expected a finite number, got '1'"),
        ({"gain": {"points": float("nan")}}, "report.gain.points: expected a finite number, got nan"),
        ({"gain": {"points": float("inf")}}, "got inf"),
        ({"gain": {"points": 10**400}}, "got a huge number"),
        ({"gain": {"gained": 1.5}}, "report.gain.gained: expected a whole number, got 1.5"),
        ({"templates": [{"seen": 1}]}, r"report.templates\[0\].seen: expected true or false, got 1"),
        ({"fingerprint": 1}, "report.fingerprint: expected a text, got 1"),
        ({"gain": {"interval": [1]}}, r"report.gain.interval: expected \[low, high\], got \[1\]"),
        ({"gain": {"interval": "ab"}}, r"report.gain.interval: expected \[low, high\], got 'ab'"),
        ({"gain": {"interval": [1, "2"]}}, "report.gain.interval: expected a finite number, got '2'"),
        ({"gain": {"interval": [3, 1]}}, r"report.gain.interval: expected \[low, high\]"),
        ({"gain": [1]}, r"report.gain: expected an object, got \[1\]"),
        ({"retention": {"a": 1}}, "report.retention.a: expected an object, got 1"),
        ({"templates": {"a": 1}}, "report.templates: expected a list"),
        ({"templates": [1]}, r"report.templates\[0\]: expected an object, got 1"),
    ],
)
def test_names_the_value_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CcaError, match=message) as caught:
        Report.from_json(change, "report")
    assert "\n" not in str(caught.value)


def test_the_reference_pages_are_up_to_date() -> None:
    """`python docs/write_reference.py` writes them."""
    script = Path(__file__).parents[2] / "docs" / "write_reference.py"
    found = importlib.util.spec_from_file_location("write_reference", script)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    for page in module.PAGES:
        assert module.written(page) == module.path_of(page).read_text(encoding="utf-8"), page
    assert "| `controls.<name>.draws[].matched.drift` |" in module.table(Report)
    assert all(meaning for _, meaning, _ in module.rows(Report)), "a field has no text"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cca.reports import formats


@pytest.mark.parametrize(
    ("form", "value", "written"),
    [
        (formats.percent, 0.6724, "67.2 %"),
        (formats.percent, None, "–"),
        (formats.share, 0.0046, "0.46 %"),
        (formats.share, 0.000012, "0.0012 %"),
        (formats.share, 3.2e-9, "3.2e-7 %"),
        (formats.share, 0.404, "40.4 %"),
        (formats.share, 0.0, "0 %"),
        (formats.share, 1.0, "100 %"),
        (formats.points, 27.62, "+27.6"),
        (formats.points, -0.5, "−0.5"),
        (formats.points, 0.0, "0.0"),
        (formats.points, -0.0, "0.0"),
        (formats.points, -0.012, "−0.01"),
        (formats.points, 2e-5, "+2e-5"),
        (formats.interval, (-1.25, 3.0), "−1.2 to +3.0"),
        (formats.nats, 3.14e-6, "3.1e-6"),
        (formats.nats, 3.0e-5, "3e-5"),
        (formats.nats, 0.0, "0"),
        (formats.nats, 0.00312, "0.0031"),
        (formats.significant, -2.5e-7, "−2.5e-7"),
        (formats.significant, -0.25, "−0.25"),
        (formats.significant, 1.5e6, "1.5e6"),
        (formats.significant, 270.4, "270"),
        (formats.p_value, 0.0, "p < 1e-300"),
        (formats.p_value, 1e-300, "p = 1e-300"),
        (formats.p_value, 0.0312, "p = 0.03"),
        (formats.p_value, 1.0, "p = 1.00"),
        (formats.count, 1152, "1,152"),
        (formats.duration, 0.04, "0.0 s"),
        (formats.duration, 59.97, "1 min 00 s"),
        (formats.duration, 221.2, "3 min 41 s"),
        (formats.duration, 7384, "2 h 03 min"),
        (formats.moment, "2026-05-04T10:20:30+00:00", "2026-05-04 10:20 UTC"),
        (formats.moment, "yesterday\x1b", "yesterday␛"),
        (formats.token, " 42", "␣42"),
        (formats.token, "  ", "␣␣"),
        (formats.token, "\n\n", "⏎⏎"),
        (formats.token, "", ""),
        (formats.label, " a\tb\r\nc ", "a⇥b⏎c"),
        (formats.label, "\x00", "␀"),
        (formats.label, "  ", "(empty)"),
        (formats.label, "\u202eexe.png", "⟨U+202E⟩exe.png"),
        (formats.label, "می\u200cخواهم", "می\u200cخواهم"),
        (formats.label, "\ud83d alone", "\ufffd alone"),
    ],
)
def test_writes(form: Callable[[Any], str], value: Any, written: str) -> None:
    assert form(value).replace(formats.NBSP, " ") == written


@given(st.text(st.characters(codec=None), max_size=300))
def test_a_label_is_one_short_printable_line(text: str) -> None:
    label = formats.label(text)
    assert 0 < len(label) <= formats.LONGEST_LABEL
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or "\ud800" <= c <= "\udfff" for c in label)
    assert len(label.splitlines()) == 1
    label.encode()


@given(st.floats(1e-12, 1e12))
def test_significant_digits_are_right(value: float) -> None:
    assert float(formats.significant(value, 3)) == pytest.approx(value, rel=0.006)

"""How numbers and untrusted texts are written in reports, the same on the page and in the terminal.

Nothing known is written as an en dash. Exponents are written 3.1e-6, so that a number can be copied.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

UNKNOWN = "–"
MINUS = "−"
NBSP = "\u00a0"
LONGEST_LABEL = 96

# Controls that would act on a terminal, and those that would reorder or hide the text around them. The joiners
# U+200C and U+200D stay: Persian, Indic scripts and emoji are spelt with them.
_HIDDEN = re.compile("[\x80-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROLS = {code: 0x2400 + code for code in range(0x20) if code not in (0x09, 0x0A)} | {0x7F: 0x2421}
_BREAKS = {0x09: "⇥", 0x0A: "⏎", 0x2028: "⏎", 0x2029: "⏎"}


def visible(text: str) -> str:
    """``text`` with every control character shown instead of obeyed; line breaks and tabs are kept."""
    shown = _SURROGATE.sub("\ufffd", text.replace("\r\n", "\n")).translate(_CONTROLS)
    return _HIDDEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", shown)


def label(text: str, longest: int = LONGEST_LABEL) -> str:
    """``text`` on one line, cut to ``longest`` characters."""
    shown = visible(text[: 2 * longest]).translate(_BREAKS).strip() or "(empty)"
    return shown if len(shown) <= longest else shown[: longest - 1].rstrip() + "…"


def token(text: str) -> str:
    """One token's text with its blanks to be seen."""
    shown = visible(text).translate(_BREAKS)
    return shown.replace(" ", "␣") if not shown.strip() else ("␣" + shown[1:] if shown[0] == " " else shown)


def percent(fraction: float | None) -> str:
    """A fraction in [0, 1], to a tenth of a percent."""
    return UNKNOWN if fraction is None else f"{100 * fraction:.1f}{NBSP}%"


def share(fraction: float | None) -> str:
    """A fraction that may be tiny: two digits that count below 10 %."""
    if fraction is None:
        return UNKNOWN
    if fraction == 0 or fraction >= 0.1:
        return f"{100 * fraction:.0f}{NBSP}%" if fraction in (0, 1) else percent(fraction)
    return f"{significant(100 * fraction)}{NBSP}%"


def points(value: float | None) -> str:
    """Percentage points, signed, to a tenth; smaller ones to one digit that counts."""
    if value is None:
        return UNKNOWN
    digits = f"{abs(value):.1f}" if abs(value) >= 0.05 or not value else significant(abs(value), 1)
    sign = "" if not value else "+" if value > 0 else MINUS
    return sign + digits


def interval(ends: tuple[float, float] | None) -> str:
    """A 95 % interval in percentage points."""
    return UNKNOWN if ends is None else f"{points(ends[0])} to {points(ends[1])}"


def none_lost(problems: int) -> str:
    """What is known where no problem was lost: of n without an event, at most 3 / n are events (in points)."""
    return f"none of {count(problems)} lost: at most {significant(300 / problems)}"


def significant(value: float, digits: int = 2) -> str:
    """``value`` to that many digits, with an exponent below a thousandth and above a hundred thousand."""
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa.replace('-', MINUS)}e{int(exponent)}"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:.6f}".rstrip("0").rstrip(".").replace("-", MINUS)


def nats(value: float | None) -> str:
    """Drift: nats a token."""
    return UNKNOWN if value is None else significant(value)


def p_value(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    if value < 1e-300:
        return "p < 1e-300"
    return f"p = {value:.2f}" if value >= 0.095 else f"p = {significant(value, 1)}"


def count(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


def counted(value: int | None, noun: str, plural: str = "") -> str:
    """``1 problem``, ``1,152 problems``."""
    return f"{count(value)} {noun if value == 1 else plural or noun + 's'}"


def moment(written: str) -> str:
    """An ISO time, shortened; anything else as it is."""
    try:
        parsed = datetime.fromisoformat(written)
    except ValueError:
        return label(written)
    return parsed.strftime("%Y-%m-%d %H:%M UTC" if parsed.utcoffset() == timedelta() else "%Y-%m-%d %H:%M %z").strip()


def duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds < 59.95:
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60:02d}{NBSP}s"
    return f"{whole // 3600}{NBSP}h {whole % 3600 // 60:02d}{NBSP}min"

"""LaTeX and typography reduced to what judges read: ``\\frac{1}{2}`` to ``1/2``, ``70{,}000`` to ``70,000``.

Signs that make a number part of a larger expression (a root, pi, a power) stay visible: a judge must not read
the 2 out of ``2\\sqrt{3}``.
"""

from __future__ import annotations

import re

_TYPOGRAPHY = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2013\ufe63\uff0d\u2010\u2011\u2012", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u200a\u3000", " "),
        **dict.fromkeys("\u200b\u2060\ufeff\u200e\u200f\u00ad", ""),
        **dict(zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", (
            " 1/2", " 1/3", " 2/3", " 1/4", " 3/4", " 1/5", " 2/5", " 3/5", " 4/5", " 1/6", " 5/6", " 1/8", " 3/8",
            " 5/8", " 7/8",
        ), strict=True)),
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        "\u2044": "/", "\u2215": "/", "\uff05": "%", "\uff0c": ",", "\uff0e": ".", "\uff0f": "/",
        "\uff1a": ":", "\uff04": "$", "\uffe5": "¥", "\u2217": "*", "\u00b7": "*", "\u22c5": "*",
    }
)  # fmt: skip
_THOUSANDS = re.compile(r"[\u00a0\u2009\u202f'\u2019~](?<=\d.)(?=\d{3}(?!\d))")

_FRACTION = re.compile(r"\\[dtc]?frac[ ]?(?:\{([^{}]{1,60})\}|(\d))[ ]?(?:\{([^{}]{1,60})\}|(\d))")
_ROOT = re.compile(r"\\sqrt[ ]?(?:\[[^\]]{0,9}\])?[ ]?\{([^{}]{0,60})\}")
_PLAIN = re.compile(r"[ ]*-?[ ]*[\d.,]+[ ]*\Z")
_GROUPING = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!,?\\?!?|,\\!|\\ |~)(?=\d{3}(?!\d))")
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|operatorname|mbox|emph|bf|rm)[ ]?\{([^{}]{0,80})\}"
)
_COMMAND = re.compile(r"\\(?:[a-zA-Z]+|.)", re.DOTALL)
_KEPT = {
    r"\times": "×", r"\cdot": "*", r"\div": "÷", r"\sqrt": "√", r"\pi": "π", r"\circ": "°", r"\pm": "±",
    r"\$": "$", r"\%": "%", r"\percent": "%", r"\euro": "€", r"\pounds": "£", r"\neg": "-", r"\infty": "∞",
    r"\,": " ", r"\!": "", r"\le": "≤", r"\ge": "≥", r"\leq": "≤", r"\geq": "≥",
    r"\implies": "=", r"\Rightarrow": "=", r"\approx": "=", r"\equiv": "=",
}  # fmt: skip


def plain(text: str) -> str:
    """``text`` with one spelling for each minus sign, space, fraction and digit. Local to each character."""
    if text.isascii():
        return _THOUSANDS.sub(",", text) if "'" in text or "~" in text else text
    return _THOUSANDS.sub(",", text).translate(_TYPOGRAPHY)


def unlatex(text: str) -> str:
    """``text`` without LaTeX commands; unchanged when it holds no backslash."""
    if "\\" not in text and "{,}" not in text:
        return text
    text = _GROUPING.sub(",", text)
    text = _FRACTION.sub(_fraction, _ROOT.sub(r"√\1", text))
    text = _WRAPPER.sub(r" \1 ", text)
    text = _COMMAND.sub(lambda match: _KEPT.get(match[0], " "), text)
    return text.replace("^{", "^").replace("{", " ").replace("}", " ").replace("^°", "°")


def _fraction(match: re.Match[str]) -> str:
    above, below = match[1] or match[2], match[3] or match[4]
    if not (_PLAIN.match(above) and _PLAIN.match(below)):
        return "√expression"
    mixed = match.start() > 0 and match.string[match.start() - 1].isdigit()
    return f"{' ' if mixed else ''}{above.strip().replace(' ', '')}/{below.strip().replace(' ', '')}"

"""LaTeX and typography reduced to what judges read: ``\\frac{1}{2}`` to ``1/2``, ``70{,}000`` to ``70,000``.

Signs that make a number part of a larger expression (a root, pi, a power, a function) stay visible: a judge must not
read the 2 out of ``2\\sqrt{3}``.
"""

from __future__ import annotations

import re
import unicodedata


class _Typography(dict[int, str]):
    """One spelling of each character; digits of every script are looked up as they come."""

    def __missing__(self, code: int) -> str:
        self[code] = str(unicodedata.decimal(chr(code), chr(code)))
        return self[code]


_TYPOGRAPHY = _Typography(
    str.maketrans(
    {
        **dict.fromkeys("\u2212\u2013\ufe63\uff0d\u2010\u2011\u2012", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u200a\u3000", " "),
        **dict.fromkeys("\u200b\u2060\ufeff\u200e\u200f\u00ad", ""),
        **dict(zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", (
            " 1/2", " 1/3", " 2/3", " 1/4", " 3/4", " 1/5", " 2/5", " 3/5", " 4/5", " 1/6", " 5/6", " 1/8", " 3/8",
            " 5/8", " 7/8",
        ), strict=True)),
        "\u066b": ".", "\u066c": ",", "\u066a": "%", "\u060c": ",", "\u061b": ";",
        "\u2044": "/", "\u2215": "/", "\uff05": "%", "\uff0c": ",", "\uff0e": ".", "\uff0f": "/",
        "\uff1a": ":", "\uff04": "$", "\uffe5": "¥", "\u2217": "*", "\u00b7": "*", "\u22c5": "*",
    }
    )
)  # fmt: skip
_SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
_SUPERSCRIPT = re.compile(rf"\u207b?[{_SUPERSCRIPTS}]+")
_QUOTES = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u00b4\u02bc", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", '"'),
    }
)
FULL_WIDTH = str.maketrans({chr(code + 0xFEE0): chr(code) for code in range(0x21, 0x7F)})
"""Full-width letters and signs to those of ASCII, one for one."""
_DIRECTIONS = re.compile(r"[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\u00ad]")
_THOUSANDS = re.compile(r"[\u00a0\u2009\u202f'\u2019~](?<=\d.)(?=\d{3}(?!\d))")

_FRACTION = re.compile(r"\\[dtc]?frac[ ]?(?:\{([^{}]{1,60})\}|(\d))[ ]?(?:\{([^{}]{1,60})\}|(\d))")
_ROOT = re.compile(r"\\sqrt[ ]?(?:\[[^\]]{0,9}\])?[ ]?\{([^{}]{0,60})\}")
_PLAIN = re.compile(r"[ ]*-?[ ]*[\d.,]+[ ]*\Z")
GROUPING = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!,?\\?!?|,\\!|\\ |~)(?=\d{3}(?!\d))")
CALCULATION = re.compile(r"<<[^<>]*>>")
"""GSM8K's calculator annotations."""
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|operatorname|mbox|emph|bf|rm)[ ]?\{([^{}]{0,80})\}"
)
_COMMAND = re.compile(r"\\(?:[a-zA-Z]+|.)", re.DOTALL)
_REPEATING = re.compile(r"(?<![\d.,])(\d{0,9})\.(\d{0,9})\\(?:overline|bar|dot)[ ]?(?:\{(\d{1,9})\}|(\d))")
FUNCTION = "\u0192"
"""In place of a command that makes what follows part of an expression (``\\binom``, ``\\log``, a Greek letter)."""
_HARMLESS = set(
    r"""left right big Big bigg Bigg bigl bigr displaystyle textstyle small normalsize large Large LARGE huge Huge
    quad qquad hspace hfill text textbf textit textrm texttt textsf mathrm mathbf mathit mathsf mathtt operatorname mbox
    emph bf rm it boxed fbox box framebox underline underbrace begin end hline color textcolor mathcolor tag label
    therefore because ldots cdots dots checkmark blacksquare square par noindent newline ensuremath phantom
    degree circ star cal""".split()
)
_KEPT = {
    r"\times": "×", r"\cdot": "*", r"\div": "÷", r"\sqrt": "√", r"\pi": "π", r"\circ": "°", r"\pm": "±", r"\mp": "±",
    r"\$": "$", r"\%": "%", r"\percent": "%", r"\euro": "€", r"\pounds": "£", r"\neg": "-", r"\infty": "∞",
    r"\,": " ", r"\!": "", r"\le": "≤", r"\ge": "≥", r"\lt": "<", r"\gt": ">", r"\ne": "≠", r"\neq": "≠", r"\sim": "~",
    r"\to": "→", r"\leq": "≤", r"\geq": "≥",
    r"\implies": "=", r"\Rightarrow": "=", r"\approx": "=", r"\equiv": "=",
}  # fmt: skip


def plain(text: str) -> str:
    """``text`` with one spelling for each minus sign, space, fraction and digit. Local to each character."""
    if text.isascii():
        return _THOUSANDS.sub(",", text) if "'" in text or "~" in text else text
    text = _SUPERSCRIPT.sub(_power, _THOUSANDS.sub(",", text))
    return text.translate(_TYPOGRAPHY)


def plain_text(text: str) -> str:
    """``text`` with one spelling for each letter, quotation mark, dash and space; no mark of direction."""
    text = unicodedata.normalize("NFKC", plain(_DIRECTIONS.sub("", text)).translate(_QUOTES))
    return text.translate(_QUOTES)


def unlatex(text: str) -> str:
    """``text`` without LaTeX commands; unchanged when it holds no backslash."""
    if "\\" not in text and "{,}" not in text:
        return text
    text = GROUPING.sub(",", text)
    text = _REPEATING.sub(_repeating, text)
    text = _FRACTION.sub(_fraction, _ROOT.sub(r"√\1", text))
    text = _WRAPPER.sub(r" \1 ", text)
    text = _COMMAND.sub(_command, text)
    return text.replace("^{", "^").replace("{", " ").replace("}", " ").replace("^°", "°")


def _fraction(match: re.Match[str]) -> str:
    above, below = match[1] or match[2], match[3] or match[4]
    if not (_PLAIN.match(above) and _PLAIN.match(below)):
        return "√expression"
    mixed = match.start() > 0 and match.string[match.start() - 1].isdigit()
    return f"{' ' if mixed else ''}{above.strip().replace(' ', '')}/{below.strip().replace(' ', '')}"


def _power(match: re.Match[str]) -> str:
    """Superscript digits as a power: ``10⁶`` is ``10^6``."""
    return "^" + "".join("-" if sign == "\u207b" else str(_SUPERSCRIPTS.index(sign)) for sign in match[0])


def _command(match: re.Match[str]) -> str:
    name = match[0]
    if name in _KEPT:
        return _KEPT[name]
    return f" {FUNCTION}" if name[1].isalpha() and name[1:] not in _HARMLESS else " "


def _repeating(match: re.Match[str]) -> str:
    """A repeating decimal as a fraction: ``0.1\\overline{6}`` is ``15/90``."""
    whole, fixed, repeated = match[1] or "0", match[2], match[3] or match[4]
    above = int(whole + fixed + repeated) - int(whole + fixed)
    return f"{above}/{(10 ** len(repeated) - 1) * 10 ** len(fixed)}"

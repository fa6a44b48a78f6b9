"""The vocabulary of template expressions: the functions they may call, the named lists they sample from (`names`,
`fruits`, `multi_times`, ...) and words for numbers.

Every function is bounded in time and size and exact on numbers. Items that a template follows with a plural "s" are
chosen so that the "s" is right (banana, pound, mile). The lists of people do not overlap, so that a man and a woman of
one problem never share a name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from cca.problems.judges.quantities import TENS, UNITS, read_number_words
from cca.problems.templates.exact_numbers import (
    LARGEST,
    LONGEST,
    ExpressionError,
    Number,
    Steps,
    Worded,
    exact,
    number,
    parsed_number,
    round_half_away,
    shown,
)

WIDEST = 1_000_000
"""Most numbers of a range."""

Function = tuple[Callable[..., Any], int]
"""A function and the price of a call, where a node of an expression costs 1."""


def is_int(value: Any) -> bool:
    return type(exact(number(value, "is_int"))) is int


def divides(dividend: Any, divisor: Any) -> bool:
    """True when ``divisor`` goes into ``dividend`` a whole number of times (the order of the published templates)."""
    divisor = number(divisor, "divides")
    return divisor != 0 and number(dividend, "divides") % divisor == 0


def whole(value: Any) -> int:
    """``int()``: towards zero; a text must spell a number."""
    return value if type(value) is int else int(_read(value, "int"))


def fraction(value: Any, bottom: Any = 1) -> Number:
    """``float()`` and ``Fraction()``: the exact number; a text must spell a number."""
    return exact(Fraction(_read(value, "Fraction"), _read(bottom, "Fraction")))


def nearest(value: Any, digits: Any = 0) -> Number:
    """``round()``, halves away from zero."""
    if not isinstance(digits, int) or not -9 <= digits <= 9:
        raise ExpressionError(f"expected round() to -9 ... 9 digits, got {shown(digits)}")
    return round_half_away(number(value, "round"), digits)


def whole_range(*bounds: Any) -> range:
    """``range()``."""
    steps = [number(bound, "range") for bound in bounds]
    if not 1 <= len(steps) <= 3 or not all(isinstance(step, int) for step in steps):
        raise ExpressionError(f"expected range() of one to three whole numbers, got {shown(bounds)}")
    result = range(*steps)  # type: ignore[arg-type]
    if max(abs(step) for step in steps) > LARGEST or len(result) > WIDEST:
        raise ExpressionError(f"expected a range of at most {WIDEST} numbers, got {shown(result)}")
    return result


def exact_range(*bounds: Any) -> Steps:
    """``np.arange`` and ``frange``: start, start + step, ... below stop, without rounding noise."""
    numbers = [Fraction(number(bound, "arange")) for bound in bounds]
    if not 1 <= len(numbers) <= 3:
        raise ExpressionError(f"expected arange() of one to three numbers, got {len(numbers)}")
    start, stop, step = [*([Fraction(0)] if len(numbers) == 1 else []), *numbers, Fraction(1)][:3]
    if step == 0:
        raise ExpressionError("expected a step other than zero, got 0")
    count = max(0, math.ceil((stop - start) / step))
    if count > LONGEST:
        raise ExpressionError(f"expected at most {LONGEST} steps, got {count}")
    return Steps(exact(start + index * step) for index in range(count))


def random_integers(low: Any, high: Any, count: Any = 1) -> range:
    """``np.random.randint(low, high, count)`` as the numbers that each of its draws may give."""
    if not isinstance(count, int) or count < 1:
        raise ExpressionError(f"expected a count of at least 1 for np.random.randint(), got {shown(count)}")
    return whole_range(low, high)


def numbers_within(low: Any, high: Any, step: Any = 1) -> list[Worded]:
    """Whole numbers from ``low`` to ``high``, both included, written in words ("two", "forty-two")."""
    values = items(whole_range(low, number(high, "numbers_within") + 1, step))
    return [Worded(number_words(value), value) for value in values]


def items(value: Any) -> list[Any]:
    """``list()``, and ``shuffle_list()`` too: items are drawn at random anyway."""
    if not isinstance(value, list | tuple | range) or len(value) > LONGEST:
        raise ExpressionError(f"expected a list of at most {LONGEST} items, got {shown(value)}")
    return list(value)


def rounded_items(value: Any, digits: Any = 2) -> Any:
    """``fix_floats``: every number of a list, or one number, rounded to cents."""
    if isinstance(value, list | tuple | range):
        return [nearest(part, digits) for part in items(value)]
    return nearest(value, digits)


def mixed_number(value: Any) -> str:
    """``format_frac``: 7/4 as "1 3/4"."""
    value = number(value, "format_frac")
    parts = [str(part) for part in divmod(abs(value), 1) if part]
    return ("-" if value < 0 else "") + (" ".join(parts) or "0")


def _read(value: Any, what: str) -> Number:
    if isinstance(value, str):
        spelled = parsed_number(value)
        if spelled is None:
            raise ExpressionError(f"expected {what}() of a number, got {shown(value)}")
        return spelled
    return number(value, what)


def _numbers(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    return lambda *values: function(*[number(value, name) for value in values])


_LISTING = LONGEST // 10
"""Price of a call that may go through a list."""

FUNCTIONS: dict[str, Function] = {
    "is_int": (is_int, 1),
    "divides": (divides, 1),
    "int": (whole, 1),
    "float": (fraction, 2),
    "Fraction": (fraction, 2),
    "round": (nearest, 3),
    "abs": (_numbers(abs, "abs"), 1),
    "min": (_numbers(min, "min"), 10),
    "max": (_numbers(max, "max"), 10),
    "math.ceil": (_numbers(math.ceil, "math.ceil"), 1),
    "math.floor": (_numbers(math.floor, "math.floor"), 1),
    "range": (whole_range, 3),
    "np.arange": (exact_range, _LISTING),
    "frange": (exact_range, _LISTING),
    "numbers_within": (numbers_within, _LISTING),
    "list": (items, _LISTING),
    "shuffle_list": (items, _LISTING),
    "fix_floats": (rounded_items, _LISTING),
    "format_frac": (mixed_number, 3),
}
DOMAINS: dict[str, Function] = {**FUNCTIONS, "np.random.randint": (random_integers, 3)}
"""The functions of #init lines."""

_PARTS = {
    2: "half", 3: "third", 4: "fourth", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth", 9: "ninth", 10: "tenth",
}  # fmt: skip
_SIZES = ((10**6, "million"), (1000, "thousand"), (100, "hundred"))


def number_words(value: int) -> str:
    """English words for a whole number below a billion: 42 is "forty-two"."""
    if value < 0:
        return f"minus {number_words(-value)}"
    if value < 20:
        return UNITS[value]
    if value < 100:
        return TENS[value // 10 - 2] + (f"-{UNITS[value % 10]}" if value % 10 else "")
    size, name = next((size, name) for size, name in _SIZES if value >= size)
    count, rest = divmod(value, size)
    joint = " and " if rest < 100 else " "
    return f"{number_words(count)} {name}" + (f"{joint}{number_words(rest)}" if rest else "")


def fraction_words(value: Number) -> str:
    """English words for a fraction: 1/2 is "half", 2/3 is "two-thirds", 1/4 is "one-fourth"."""
    numerator, denominator = value.numerator, value.denominator
    if (numerator, denominator) == (1, 2):
        return "half"
    part = _PARTS.get(denominator)
    if part is None or not 0 < numerator < denominator:
        return f"{numerator}/{denominator}"
    return f"{number_words(numerator)}-{part}" + ("s" if numerator > 1 else "")


_COMMON = tuple(map(Fraction, "1/2 1/3 1/4 2/3 3/4 1/5 2/5 3/5 4/5 1/6 1/8 1/10".split()))
_FRACTION_WORDS = tuple(Worded(fraction_words(value), value) for value in _COMMON)
_FRACTION_DIGITS = tuple(Worded(f"{value.numerator}/{value.denominator}", value) for value in _COMMON)
_DECIMALS = tuple(Fraction(text) for text in "0.1 0.2 0.25 0.3 0.4 0.5 0.6 0.7 0.75 0.8 0.9".split())
_TIMES = (Worded("twice", 2), *(Worded(f"{number_words(count)} times", count) for count in range(3, 11)))
_ICE = (Worded("twice", 2), Worded("thrice", 3))
_MULTIPLE = tuple(Worded(text, value) for text, value in (("double", 2), ("triple", 3), ("quadruple", 4)))

# Each list with its names; later lines of an entry are indented.
_PLAIN = """
names_male: James, Robert, John, Michael, David, William, Richard, Joseph, Thomas, Charles, Daniel, Matthew, Anthony,
  Mark, Steven, Paul, Andrew, Joshua, Kenneth, Kevin, Brian, George, Timothy, Edward, Jason, Jeffrey, Jacob, Gary,
  Nicholas, Eric, Jonathan, Stephen, Larry, Justin, Scott, Benjamin, Samuel, Gregory, Patrick, Frank, Raymond, Jack,
  Dennis, Tyler, Aaron, Jose, Adam, Nathan, Henry, Peter, Carlos, Omar, Hassan, Ravi, Wei, Kenji, Mateo, Luca
names_female: Mary, Patricia, Jennifer, Linda, Elizabeth, Barbara, Susan, Jessica, Sarah, Karen, Lisa, Nancy, Betty,
  Sandra, Margaret, Ashley, Kimberly, Emily, Donna, Michelle, Carol, Amanda, Melissa, Deborah, Stephanie, Rebecca,
  Sharon, Laura, Cynthia, Dorothy, Amy, Kathleen, Angela, Shirley, Emma, Brenda, Pamela, Nicole, Anna, Samantha,
  Katherine, Christine, Helen, Rachel, Olivia, Maria, Julia, Sofia, Fatima, Priya, Mei, Yuki, Amina, Chloe, Grace
surnames: Smith, Johnson, Williams, Brown, Jones, Garcia, Miller, Davis, Martinez, Lopez, Wilson, Lee
weekdays: Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday
months: January, February, March, April, May, June, July, August, September, October, November, December
seasons: spring, summer, fall, winter
cities: Los Angeles, New York, Chicago, Houston, Phoenix, Philadelphia, San Antonio, San Diego, Dallas, Austin,
  Seattle, Denver, Boston, Portland, Atlanta, Miami, Oakland, Minneapolis
states: California, Texas, Florida, Ohio, Georgia, Oregon, Utah, Nevada, Maine, Iowa, Kansas, Virginia
countries: Canada, Mexico, Brazil, France, Germany, Italy, Spain, Japan, India, Kenya, Egypt, Norway
languages: English, Spanish, French, German, Italian, Japanese, Hindi, Arabic, Swahili, Portuguese
colors: red, blue, green, yellow, purple, orange, pink, brown, black, white, gray, teal
fruits: apple, banana, orange, pineapple, mango, pear, lemon, plum, apricot, kiwi, fig, melon, coconut
vegetables: carrot, onion, potato, cucumber, pepper, turnip, eggplant, leek, pumpkin, radish, beet
animals: dog, cat, rabbit, horse, cow, goat, pig, duck, chicken, turtle, hamster, parrot, lizard
pets: dog, cat, rabbit, hamster, parrot, turtle, lizard, ferret
flowers: rose, tulip, orchid, sunflower, marigold, begonia, petunia, carnation, daffodil
sports: basketball, soccer, tennis, baseball, volleyball, hockey, rugby, cricket, football, badminton
instruments: piano, violin, guitar, flute, trumpet, cello, clarinet, harp, drum
subjects: history, geography, biology, chemistry, physics, economics, literature, algebra, geometry
jobs: teacher, nurse, baker, carpenter, plumber, painter, lawyer, farmer, doctor, gardener
vehicles: car, truck, van, motorcycle, scooter, bicycle
drinks: coffee, tea, juice, lemonade, water, soda, milk
desserts: cookie, brownie, muffin, cupcake, donut, pie, cake
currencies currency: dollar, euro, pound, peso, rupee, franc
currencies_sym currency_sym: $, €, £
weights_sm weight_sm: ounce, gram
weights_med weight_med: pound, kilogram
weights_lg weight_lg: ton, tonne
length_sm lengths_sm distance_sm distances_sm: centimeter, millimeter
length_med lengths_med distance_med distances_med: meter, yard
length_lg lengths_lg distance_lg distances_lg: mile, kilometer
volume_sm volumes_sm: milliliter, fluid ounce, teaspoon, tablespoon
volume_med volumes_med: cup, pint, quart, liter
volume_lg volumes_lg: gallon, liter, barrel
time_sm times_sm: second, minute
time_med times_med: hour, day
time_lg times_lg: week, month, year
"""
_NUMBERS = {
    "fractions fraction_alnum": _FRACTION_WORDS + _FRACTION_DIGITS,
    "fraction_alph fraction_alpha fraction_words": _FRACTION_WORDS,
    "fraction_nums fraction_num": _FRACTION_DIGITS,
    "fraction_decimals fraction_decimal decimals": _DECIMALS,
    "multiple multiples": _MULTIPLE,
    "multiple_ice multi_ice": _ICE,
    "multi_times multiple_times": _TIMES,
}
_ENTRIES = [entry.split(": ") for entry in re.split(r"\n(?! )", _PLAIN.strip())]
_WORDS = {names: tuple(item.strip() for item in items.split(",")) for names, items in _ENTRIES}
LISTS: dict[str, tuple[Any, ...]] = {
    name: items for names, items in (_WORDS | _NUMBERS).items() for name in names.split()
}
LISTS["names"] = LISTS["names_male"] + LISTS["names_female"]
PEOPLE = frozenset(LISTS["names"])
CYCLES = (LISTS["weekdays"], LISTS["months"], LISTS["seasons"])
"""Lists whose last item is followed by the first: Saturday, Sunday, Monday is a run of days."""

_LISTED = {item.text: item for items in LISTS.values() for item in items if isinstance(item, Worded)}
_LISTED["once"] = Worded("once", 1)


def spelled(text: str) -> Any:
    """The value that a slot's default spells: a number ("12"), a worded number ("half", "25%"), or the text."""
    value, words = parsed_number(text), text.lower()
    share = parsed_number(text[:-1]) if text.endswith("%") else None
    if share is not None:
        return Worded(text, Fraction(share) / 100)
    if value is not None or words in _LISTED:
        return _LISTED[words] if value is None else value
    value = read_number_words(words, whole=True)
    return text if value is None else Worded(words, value)

"""The named lists that templates sample from (`names`, `fruits`, `multi_times`, ...) and words for numbers.

Items that a template follows with a plural "s" are chosen so that the "s" is right (banana, pound, mile). The
lists of people do not overlap, so that a man and a woman of one problem never share a name.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from cca.problems.templates.exact_numbers import Number, Worded, exact, parsed_number

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_PARTS = {
    2: "half", 3: "third", 4: "fourth", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth", 9: "ninth", 10: "tenth",
}  # fmt: skip


def number_words(value: int) -> str:
    """English words for a whole number below a million: 42 is "forty-two"."""
    if value < 0:
        return f"minus {number_words(-value)}"
    if value < 20:
        return _UNITS[value]
    if value < 100:
        tens, units = divmod(value, 10)
        return _TENS[tens] + (f"-{_UNITS[units]}" if units else "")
    size, name = (100, "hundred") if value < 1000 else (1000, "thousand")
    if value >= 1_000_000:
        return str(value)
    count, rest = divmod(value, size)
    joint = " and " if name == "hundred" or rest < 100 else " "
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


def _words(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(","))


def _fractions(*pairs: tuple[int, int]) -> tuple[Fraction, ...]:
    return tuple(Fraction(numerator, denominator) for numerator, denominator in pairs)


_COMMON = _fractions(
    (1, 2), (1, 3), (1, 4), (2, 3), (3, 4), (1, 5), (2, 5), (3, 5), (4, 5), (1, 6), (1, 8), (1, 10)
)
_FRACTION_WORDS = tuple(Worded(fraction_words(value), value) for value in _COMMON)
_FRACTION_DIGITS = tuple(Worded(f"{value.numerator}/{value.denominator}", value) for value in _COMMON)
_DECIMALS = tuple(Fraction(text) for text in "0.1 0.2 0.25 0.3 0.4 0.5 0.6 0.7 0.75 0.8 0.9".split())
_TIMES = tuple(
    [Worded("twice", 2)] + [Worded(f"{number_words(count)} times", count) for count in range(3, 11)]
)
_ICE = (Worded("twice", 2), Worded("thrice", 3))
_MULTIPLE = tuple(Worded(text, value) for text, value in (("double", 2), ("triple", 3), ("quadruple", 4)))

_MALE = _words(
    "James, Robert, John, Michael, David, William, Richard, Joseph, Thomas, Charles, Daniel, Matthew, Anthony, Mark, "
    "Steven, Paul, Andrew, Joshua, Kenneth, Kevin, Brian, George, Timothy, Edward, Jason, Jeffrey, Jacob, Gary, "
    "Nicholas, Eric, Jonathan, Stephen, Larry, Justin, Scott, Benjamin, Samuel, Gregory, Patrick, Frank, Raymond, "
    "Jack, Dennis, Tyler, Aaron, Jose, Adam, Nathan, Henry, Peter, Carlos, Omar, Hassan, Ravi, Wei, Kenji, Mateo, Luca"
)
_FEMALE = _words(
    "Mary, Patricia, Jennifer, Linda, Elizabeth, Barbara, Susan, Jessica, Sarah, Karen, Lisa, Nancy, Betty, Sandra, "
    "Margaret, Ashley, Kimberly, Emily, Donna, Michelle, Carol, Amanda, Melissa, Deborah, Stephanie, Rebecca, Sharon, "
    "Laura, Cynthia, Dorothy, Amy, Kathleen, Angela, Shirley, Emma, Brenda, Pamela, Nicole, Anna, Samantha, "
    "Katherine, Christine, Helen, Rachel, Olivia, Maria, Julia, Sofia, Fatima, Priya, Mei, Yuki, Amina, Chloe, Grace"
)
_WEEKDAYS = _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
_MONTHS = _words(
    "January, February, March, April, May, June, July, August, September, October, November, December"
)
_SEASONS = _words("spring, summer, fall, winter")
_SYMBOLS = _words("$, €, £")
_CURRENCIES = _words("dollar, euro, pound, peso, rupee, franc")

PEOPLE = frozenset(_MALE + _FEMALE)
CYCLES = (_WEEKDAYS, _MONTHS, _SEASONS)
"""Lists whose last item is followed by the first: Saturday, Sunday, Monday is a run of days."""

LISTS: dict[str, tuple[Any, ...]] = {
    "names": _MALE + _FEMALE,
    "names_male": _MALE,
    "names_female": _FEMALE,
    "surnames": _words(
        "Smith, Johnson, Williams, Brown, Jones, Garcia, Miller, Davis, Martinez, Lopez, Wilson, Lee"
    ),
    "weekdays": _WEEKDAYS,
    "months": _MONTHS,
    "seasons": _SEASONS,
    "cities": _words(
        "Los Angeles, New York, Chicago, Houston, Phoenix, Philadelphia, San Antonio, San Diego, Dallas, Austin, "
        "Seattle, Denver, Boston, Portland, Atlanta, Miami, Oakland, Minneapolis"
    ),
    "states": _words(
        "California, Texas, Florida, Ohio, Georgia, Oregon, Utah, Nevada, Maine, Iowa, Kansas, Virginia"
    ),
    "countries": _words(
        "Canada, Mexico, Brazil, France, Germany, Italy, Spain, Japan, India, Kenya, Egypt, Norway"
    ),
    "languages": _words(
        "English, Spanish, French, German, Italian, Japanese, Hindi, Arabic, Swahili, Portuguese"
    ),
    "colors": _words("red, blue, green, yellow, purple, orange, pink, brown, black, white, gray, teal"),
    "fruits": _words(
        "apple, banana, orange, pineapple, mango, pear, lemon, plum, apricot, kiwi, fig, melon, coconut"
    ),
    "vegetables": _words(
        "carrot, onion, potato, cucumber, pepper, turnip, eggplant, leek, pumpkin, radish, beet"
    ),
    "animals": _words(
        "dog, cat, rabbit, horse, cow, goat, pig, duck, chicken, turtle, hamster, parrot, lizard"
    ),
    "pets": _words("dog, cat, rabbit, hamster, parrot, turtle, lizard, ferret"),
    "flowers": _words("rose, tulip, orchid, sunflower, marigold, begonia, petunia, carnation, daffodil"),
    "sports": _words(
        "basketball, soccer, tennis, baseball, volleyball, hockey, rugby, cricket, football, badminton"
    ),
    "instruments": _words("piano, violin, guitar, flute, trumpet, cello, clarinet, harp, drum"),
    "subjects": _words(
        "history, geography, biology, chemistry, physics, economics, literature, algebra, geometry"
    ),
    "jobs": _words("teacher, nurse, baker, carpenter, plumber, painter, lawyer, farmer, doctor, gardener"),
    "vehicles": _words("car, truck, van, motorcycle, scooter, bicycle"),
    "drinks": _words("coffee, tea, juice, lemonade, water, soda, milk"),
    "desserts": _words("cookie, brownie, muffin, cupcake, donut, pie, cake"),
    "currencies": _CURRENCIES,
    "currency": _CURRENCIES,
    "currencies_sym": _SYMBOLS,
    "currency_sym": _SYMBOLS,
    "weights_sm": _words("ounce, gram"),
    "weights_med": _words("pound, kilogram"),
    "weights_lg": _words("ton, tonne"),
    "length_sm": _words("centimeter, millimeter"),
    "length_med": _words("meter, yard"),
    "length_lg": _words("mile, kilometer"),
    "volume_sm": _words("milliliter, fluid ounce, teaspoon, tablespoon"),
    "volume_med": _words("cup, pint, quart, liter"),
    "volume_lg": _words("gallon, liter, barrel"),
    "time_sm": _words("second, minute"),
    "time_med": _words("hour, day"),
    "time_lg": _words("week, month, year"),
    "fractions": _FRACTION_WORDS + _FRACTION_DIGITS,
    "fraction_alnum": _FRACTION_WORDS + _FRACTION_DIGITS,
    "fraction_alph": _FRACTION_WORDS,
    "fraction_alpha": _FRACTION_WORDS,
    "fraction_words": _FRACTION_WORDS,
    "fraction_nums": _FRACTION_DIGITS,
    "fraction_num": _FRACTION_DIGITS,
    "fraction_decimals": _DECIMALS,
    "fraction_decimal": _DECIMALS,
    "decimals": _DECIMALS,
    "multiple": _MULTIPLE,
    "multiples": _MULTIPLE,
    "multiple_ice": _ICE,
    "multi_ice": _ICE,
    "multi_times": _TIMES,
    "multiple_times": _TIMES,
}

_ALIASES = (
    ("weights", "weights"), ("weight", "weights"), ("lengths", "length"), ("volumes", "volume"), ("times", "time"),
    ("distances", "length"), ("distance", "length"),
)  # fmt: skip
for _alias, _stem in _ALIASES:
    for _size in ("sm", "med", "lg"):
        LISTS.setdefault(f"{_alias}_{_size}", LISTS[f"{_stem}_{_size}"])

_SPELLED = {item.text: item for items in LISTS.values() for item in items if isinstance(item, Worded)}
for _value in _COMMON:  # "one-fourth", "one fourth", "a fourth", "a quarter", "three quarters"
    _text = f"{number_words(_value.numerator)} {fraction_words(_value).rpartition('-')[2]}"
    for _same in (_text, _text.replace("fourth", "quarter")):
        for _variant in (_same, _same.replace(" ", "-"), _same.replace("one ", "a ")):
            _SPELLED.setdefault(_variant, Worded(_variant, _value))
_SPELLED |= {text: Worded(text, value) for text, value in (("once", 1), ("dozen", 12), ("a dozen", 12))}
_SPELLED |= {number_words(value): Worded(number_words(value), value) for value in range(101)}


def spelled(text: str) -> Any:
    """The value that a slot's default spells: a number ("12"), a worded number ("half", "25%"), or the text."""
    value = parsed_number(text)
    share = parsed_number(text[:-1]) if text.endswith("%") else None
    if share is not None:
        return Worded(text, exact(Fraction(share) / 100))
    return _SPELLED.get(text.lower(), text) if value is None else value

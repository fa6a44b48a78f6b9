"""The named lists that templates sample from (`names`, `fruits`, `multi_times`, ...) and words for numbers.

Items that a template follows with a plural "s" are chosen so that the "s" is right (banana, pound, mile). The
lists of people do not overlap, so that a man and a woman of one problem never share a name.
"""

from __future__ import annotations

import re
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
currencies: dollar, euro, pound, peso, rupee, franc
currencies_sym: $, €, £
weights_sm: ounce, gram
weights_med: pound, kilogram
weights_lg: ton, tonne
length_sm: centimeter, millimeter
length_med: meter, yard
length_lg: mile, kilometer
volume_sm: milliliter, fluid ounce, teaspoon, tablespoon
volume_med: cup, pint, quart, liter
volume_lg: gallon, liter, barrel
time_sm: second, minute
time_med: hour, day
time_lg: week, month, year
"""
LISTS: dict[str, tuple[Any, ...]] = {
    name: tuple(item.strip() for item in items.split(","))
    for name, items in (entry.split(": ") for entry in re.split(r"\n(?! )", _PLAIN.strip()))
}
LISTS |= {
    "names": LISTS["names_male"] + LISTS["names_female"],
    "fractions": _FRACTION_WORDS + _FRACTION_DIGITS,
    "fraction_alph": _FRACTION_WORDS,
    "fraction_nums": _FRACTION_DIGITS,
    "fraction_decimals": _DECIMALS,
    "multiple": _MULTIPLE,
    "multiple_ice": _ICE,
    "multi_times": _TIMES,
}
PEOPLE = frozenset(LISTS["names"])
CYCLES = (LISTS["weekdays"], LISTS["months"], LISTS["seasons"])
"""Lists whose last item is followed by the first: Saturday, Sunday, Monday is a run of days."""

_ALIASES = {
    "currencies": "currency", "currencies_sym": "currency_sym", "fractions": "fraction_alnum",
    "fraction_alph": "fraction_alpha fraction_words", "fraction_nums": "fraction_num",
    "fraction_decimals": "fraction_decimal decimals", "multiple": "multiples", "multiple_ice": "multi_ice",
    "multi_times": "multiple_times",
}  # fmt: skip
for _size in ("sm", "med", "lg"):
    _ALIASES |= {
        f"weights_{_size}": f"weight_{_size}", f"length_{_size}": f"lengths_{_size} distance_{_size} distances_{_size}",
        f"volume_{_size}": f"volumes_{_size}", f"time_{_size}": f"times_{_size}",
    }  # fmt: skip
for _name, _others in _ALIASES.items():
    LISTS |= dict.fromkeys(_others.split(), LISTS[_name])

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

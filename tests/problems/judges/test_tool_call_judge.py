"""Tool calls as models write them, against expected calls and schemas."""

from __future__ import annotations

import json

import pytest

from cca.errors import CcaError
from cca.problems.judges import make_judge
from cca.problems.judges.judge import Judgement, Verdict
from cca.problems.judges.tool_call_forms import read_calls

RIGHT, WRONG, UNREADABLE = Verdict.RIGHT, Verdict.WRONG, Verdict.UNREADABLE

WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "default": 1},
            "unit": {"enum": ["C", "F"]},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
}
GOLD = '{"name": "weather", "arguments": {"city": "Paris", "days": 2}}'


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "weather", "arguments": {"city": "Paris", "days": 2}}',
        '{"arguments": {"days": 2, "city": "Paris"}, "name": "weather"}',
        'Sure!\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>',
        '```json\n{"name": "weather", "arguments": {"city": "Paris", "days": 2}}\n```\nThat is all.',
        '```\n{"tool": "weather", "args": {"city": "Paris", "days": 2.0}}\n```',
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris", "days": 2}}]',
        '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris", "days": 2}}',
        '{"function": {"name": "weather", "arguments": "{\\"days\\": 2, \\"city\\": \\"Paris\\"}"}}',
        '<think>{"name": "other"}</think>{"name": "weather", "arguments": {"city": "Paris ", "days": 2}}',
        "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "</function>\n</tool_call>", '[TOOL_CALLS]weather[ARGS]{"city": "Paris", "days": 2}',
        f'{{"tool_calls": [{{"type": "function", "function": {GOLD}}}]}}',
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>2</arg_value>\n</tool_call>", '<function=weather>{"city": "Paris", "days": 2}</function>',
        '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Paris", "days": 2}<|call|>',
        '<invoke name="weather"><parameter name="city">Paris</parameter><parameter name="days">2</parameter></invoke>',
        '[weather(city="Paris", days=2)]', "```tool_code\nweather(city='Paris', days=2)\n```",
        'I use {weather}: {"name": "weather", "arguments": {"city": "Paris", "days": 2}}',
        '{"name": "weather", "arguments": {"city": "Paris", "days": 2}}\n\nQ: and Rome?\n{"name": "other"}',
    ],
)  # fmt: skip
def test_right_calls_in_every_wrapping(text: str) -> None:
    assert make_judge("tool-call")(text, GOLD).verdict is RIGHT
    assert make_judge("tool-call", tools=[WEATHER])(text, GOLD).verdict is RIGHT


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "weather", "arguments": {"city": "Rome", "days": 2}}',
        '{"name": "forecast", "arguments": {"city": "Paris", "days": 2}}',
        '{"name": "weather", "arguments": {"city": "Paris"}}',
        '{"name": "weather", "arguments": {"city": "Paris", "days": "2"}}',
        '{"name": "weather", "arguments": {"city": "Paris", "days": true}}',
        '{"name": "weather", "arguments": {"city": "Paris", "days": 2, "unit": "C"}}',  # made up
        '[{"name": "weather", "arguments": {"city": "Paris", "days": 2}}, {"name": "weather", "arguments": {}}]',
    ],
)
def test_wrong_calls(text: str) -> None:
    assert make_judge("tool-call")(text, GOLD).verdict is WRONG


@pytest.mark.parametrize(
    "text", ["", "It will rain.", '{"name": "weather", "arguments"', '{"city": "Paris"}', "[1, 2]", '{"name": 3}']
)
def test_texts_without_a_call_are_unreadable(text: str) -> None:
    assert make_judge("tool-call")(text, GOLD) == Judgement(UNREADABLE, None)


def test_calls_in_any_order_each_once() -> None:
    a, b = '{"name": "a", "arguments": {}}', '{"name": "b", "arguments": {"x": [1, {"y": 2}]}}'
    judge = make_judge("tool-call")
    assert judge(f"{b}\n{a}", f"[{a}, {b}]").verdict is RIGHT
    assert judge(f"{a}\n{a}", f"[{a}, {b}]").verdict is WRONG
    assert judge(f"{a}", f"[{a}, {b}]").verdict is WRONG


def test_alternatives_and_optional_arguments() -> None:
    gold = json.dumps({"name": "f", "arguments": {"x": {"$any": ["NYC", "New York"]}, "y": {"$optional": 1}}})
    judge = make_judge("tool-call", ignore_case=True)
    for arguments, verdict in [
        ({"x": "NYC"}, RIGHT),
        ({"x": "new york", "y": 1}, RIGHT),
        ({"x": "NYC", "y": 2}, WRONG),
        ({"x": "Paris"}, WRONG),
        ({"y": 1}, WRONG),
    ]:
        assert judge(json.dumps({"name": "f", "arguments": arguments}), gold).verdict is verdict


def test_schemas() -> None:
    judge = make_judge("tool-call", tools=[{"type": "function", "function": WEATHER}])
    gold = '{"name": "weather", "arguments": {"city": "Paris"}}'
    assert judge('{"name": "weather", "arguments": {"city": "Paris", "days": 1}}', gold).verdict is RIGHT  # the default
    assert judge('{"name": "weather", "arguments": {"city": "Paris", "days": 2}}', gold).verdict is WRONG
    unit = '{"name": "weather", "arguments": {"city": "Paris", "unit": "K"}}'
    assert judge(unit, unit).verdict is WRONG  # not in the schema, whatever the gold says


def test_no_call_is_right_when_no_tool_fits() -> None:
    judge = make_judge("tool-call")
    assert judge("No tool can tell.", "[]").verdict is RIGHT
    assert judge(GOLD, "[]").verdict is WRONG
    assert judge("", "[]").verdict is UNREADABLE


def test_faulty_golds_and_tools_are_refused() -> None:
    for gold in ("weather(Paris)", "3", '{"city": "Paris"}', "[" * 100_000):
        with pytest.raises(CcaError, match="judge 'tool-call'"):
            make_judge("tool-call").check_gold(gold)
    with pytest.raises(CcaError, match="expected a gold call of weather, got 'other'"):
        make_judge("tool-call", tools=[WEATHER]).check_gold('{"name": "other", "arguments": {}}')
    with pytest.raises(CcaError, match="faulty schema"):
        make_judge("tool-call", tools=[{"name": "f", "parameters": {"type": "no such type"}}])
    with pytest.raises(CcaError, match="expected a tool with a name"):
        make_judge("tool-call", tools=[{"parameters": {}}])


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "weather", "argum', "<function=weather>\n<parameter=city>Par",
        '[TOOL_CALLS]weather[ARGS]{"city": ', '{"name": "weather", "arguments": {"city": ',
        "<|python_tag|>weather.call(city)", '[weather(city="Par', "```tool_code\nweather('Paris')\n```",
    ],
)  # fmt: skip
def test_a_call_that_cannot_be_read_is_not_no_call(text: str) -> None:
    assert make_judge("tool-call")(text, "[]").verdict is UNREADABLE
    assert make_judge("tool-call")(text, GOLD).verdict is UNREADABLE


def test_a_second_call_that_was_cut_off_makes_the_first_no_answer() -> None:
    assert make_judge("tool-call")(f"<tool_call>{GOLD}</tool_call><tool_call>{{", GOLD).verdict is UNREADABLE


def test_an_object_without_arguments_is_no_call_in_prose() -> None:
    assert make_judge("tool-call")('Tom is {"name": "Tom", "age": 3}.', "[]").verdict is RIGHT
    assert make_judge("tool-call")('{"name": "now"}', '{"name": "now"}').verdict is RIGHT


NESTED = {"$ref": "#/$defs/nested"}
RECURSIVE = {"name": "weather", "parameters": {"properties": {"x": NESTED}, "$defs": {"nested": {"items": NESTED}}}}


@pytest.mark.parametrize(
    "arguments",
    ['{"x": ' + "9" * 5000 + "}", '{"x": ' + "[" * 900 + "]" * 900 + "}", '{"x": ' + "[" * 90_000, '{"x": NaN}',
     '{"x": 1e999}', '{"x": "\\ud800"}'],
)  # fmt: skip
def test_no_json_breaks_the_judge(arguments: str) -> None:
    text = f'{{"name": "weather", "arguments": {arguments}}}'
    for judge in (make_judge("tool-call"), make_judge("tool-call", tools=[RECURSIVE])):
        assert judge(text, GOLD).verdict in (WRONG, UNREADABLE)
        assert judge(text, "[]").verdict in (WRONG, UNREADABLE)


def test_calls_are_read_in_order() -> None:
    text = '{"name": "a", "args": {}} then [{"name": "b", "args": {}}, {"name": "c", "args": {}}]'
    assert [call.name for call in read_calls(text)] == ["a", "b", "c"]

"""Tool calls as models write them, against expected calls and schemas."""

from __future__ import annotations

import json

import pytest

from cca.errors import CcaError
from cca.problems.judges.judge import Judgement, Verdict
from cca.problems.judges.registry import make_judge
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
        'I use {weather}: {"name": "weather", "arguments": {"city": "Paris", "days": 2}}',
        '{"name": "weather", "arguments": {"city": "Paris", "days": 2}}\n\nQ: and Rome?\n{"name": "other"}',
    ],
)
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
    "text",
    ["", "It will rain.", '{"name": "weather", "arguments"', '{"city": "Paris"}', "[1, 2]", '{"name": 3}'],
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
    assert (
        judge('{"name": "weather", "arguments": {"city": "Paris", "days": 1}}', gold).verdict is RIGHT
    )  # the default
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


def test_calls_are_read_in_order() -> None:
    assert [call.name for call in read_calls('{"name": "a"} then [{"name": "b"}, {"name": "c"}]')] == [
        "a",
        "b",
        "c",
    ]

"""The tool-call judge: the JSON calls in a completion against expected calls, and against the tools' schemas.

A gold answer is JSON: one call ``{"name": ..., "arguments": {...}}``, a list of calls in any order, or ``[]`` for
"no tool fits". An expected argument may be ``{"$any": [...]}`` (one of these values) or ``{"$optional": value}``
(this value or left out). Everything else must be equal: an argument that was not expected makes a call wrong,
unless it repeats the default in the tool's schema. 5 equals 5.0; True is not 1; "5" is not 5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cca.errors import CcaError
from cca.problems.judges.judge import UNREADABLE, Judgement, judgement
from cca.problems.judges.reading import answer_text, new_turn_began

_WRAPPINGS = (("<tool_call>", "</tool_call>"), ("```", "```"))
_OPENING = re.compile(r"[{\[]")
_DECODER = json.JSONDecoder()
_TRIES = 64
"""How many opening brackets of a text are tried as the start of a call."""
_NAMES = ("name", "tool", "tool_name", "function_name")
_ARGUMENTS = ("arguments", "parameters", "args", "input", "tool_input", "kwargs")


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        return json.dumps(
            {"name": self.name, "arguments": self.arguments}, sort_keys=True, ensure_ascii=False
        )


class ToolCallJudge:
    """``tools``: definitions of the tools, ``{"name", "parameters": JSON schema}``, also in OpenAI's wrapping.

    With ``tools`` a call must name one of them and its arguments must satisfy its schema.
    """

    name = "tool-call"

    def __init__(
        self,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        ignore_case: bool = False,
        thinking: bool = False,
    ) -> None:
        self.ignore_case = ignore_case
        self.thinking = thinking
        self.schemas = dict(map(_definition, tools))
        self.validators = {name: _validator(name, schema) for name, schema in self.schemas.items()}

    def __call__(self, text: str, gold: str) -> Judgement:
        expected = _gold(gold)
        calls = read_calls(answer_text(text, self.thinking))
        if not calls:
            return judgement("[]", True) if not expected and text.strip() else UNREADABLE
        answer = "\n".join(str(call) for call in calls)
        return judgement(answer, all(map(self._valid, calls)) and self._same(calls, expected))

    def finished(self, text: str) -> bool:
        return new_turn_began(text, self.thinking)

    def check_gold(self, gold: str) -> None:
        for call in _gold(gold):
            if self.schemas and call.name not in self.schemas:
                known = ", ".join(self.schemas)
                raise CcaError(f"judge 'tool-call': expected a gold call of {known}, got {call.name!r}")

    def _valid(self, call: Call) -> bool:
        if not self.schemas:
            return True
        return call.name in self.validators and self.validators[call.name].is_valid(call.arguments)

    def _same(self, calls: list[Call], expected: Sequence[Call]) -> bool:
        remaining = list(expected)
        for call in calls:
            match = next((other for other in remaining if self._matches(call, other)), None)
            if match is None:
                return False
            remaining.remove(match)
        return not remaining

    def _matches(self, call: Call, expected: Call) -> bool:
        if call.name != expected.name:
            return False
        properties = self.schemas.get(call.name, {}).get("properties", {})
        for key in {*call.arguments, *expected.arguments}:
            if key not in expected.arguments:
                default = properties.get(key, {}).get("default", _MISSING)
                wanted: Any = {"$optional": default}
            else:
                wanted = expected.arguments[key]
            if not _equal(call.arguments.get(key, _MISSING), wanted, self.ignore_case):
                return False
        return True


def read_calls(text: str) -> list[Call]:
    """The calls in ``text``: within <tool_call> tags, else within fenced blocks, else wherever JSON stands."""
    for opening, closing in _WRAPPINGS:
        calls = [call for block in _between(text, opening, closing) for call in _calls_in(block)]
        if calls:
            return calls
    return list(_calls_in(text))


def _between(text: str, opening: str, closing: str) -> Iterator[str]:
    for _ in range(_TRIES):
        start = text.find(opening)
        end = text.find(closing, start + len(opening)) if start >= 0 else -1
        if end < 0:
            return
        yield text[start + len(opening) : end]
        text = text[end + len(closing) :]


def _calls_in(text: str) -> Iterator[Call]:
    position = 0
    for _ in range(_TRIES):
        opening = _OPENING.search(text, position)
        if opening is None:
            return
        try:
            value, position = _DECODER.raw_decode(text, opening.start())
        except (json.JSONDecodeError, RecursionError):
            position = opening.end()
            continue
        for item in value if isinstance(value, list) else [value]:
            call = _call(item)
            if call is not None:
                yield call


def _call(value: Any) -> Call | None:
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    if isinstance(inner, dict):
        return _call(inner)
    if isinstance(inner, str):
        value = {"name": inner, **value}
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
    arguments = next((value[key] for key in _ARGUMENTS if key in value), {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (json.JSONDecodeError, RecursionError):
            return None
    return Call(name, arguments) if name is not None and isinstance(arguments, dict) else None


class _Missing:
    """An argument that was left out; unequal to every JSON value."""


_MISSING = _Missing()


def _equal(value: Any, wanted: Any, ignore_case: bool) -> bool:
    if isinstance(wanted, dict) and len(wanted) == 1:
        if "$optional" in wanted:
            return value is _MISSING or _equal(value, wanted["$optional"], ignore_case)
        if "$any" in wanted and isinstance(wanted["$any"], list):
            return any(_equal(value, one, ignore_case) for one in wanted["$any"])
    if isinstance(value, dict) and isinstance(wanted, dict):
        keys = {*value, *wanted}
        return all(_equal(value.get(key, _MISSING), wanted.get(key, _MISSING), ignore_case) for key in keys)
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(
            _equal(one, other, ignore_case) for one, other in zip(value, wanted, strict=True)
        )
    if isinstance(value, str) and isinstance(wanted, str):
        value, wanted = value.strip(), wanted.strip()
        return value.casefold() == wanted.casefold() if ignore_case else value == wanted
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted


@lru_cache(maxsize=65536)
def _gold(gold: str) -> tuple[Call, ...]:
    try:
        value = json.loads(gold)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CcaError(
            f"judge 'tool-call': expected a gold answer of JSON calls, got {gold!r} ({error})"
        ) from error
    items = value if isinstance(value, list) else [value]
    calls = tuple(call for call in map(_call, items) if call is not None)
    if len(calls) != len(items):
        raise CcaError(
            f'judge \'tool-call\': expected calls {{"name": ..., "arguments": {{...}}}}, got {gold!r}'
        )
    return calls


def _definition(tool: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    inner = tool.get("function", tool)
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise CcaError(f"judge 'tool-call': expected a tool with a name and parameters, got {tool!r}")
    return inner["name"], inner.get("parameters", {})


def _validator(name: str, schema: Mapping[str, Any]) -> Any:
    try:
        from jsonschema import SchemaError
        from jsonschema.validators import validator_for
    except ImportError as error:
        raise CcaError(
            "judge 'tool-call' with tools needs jsonschema: pip install -e \".[tools]\""
        ) from error
    kind = validator_for(schema)
    try:
        kind.check_schema(dict(schema))
    except SchemaError as error:
        raise CcaError(f"judge 'tool-call': tool {name!r} has a faulty schema: {error.message}") from error
    return kind(schema)

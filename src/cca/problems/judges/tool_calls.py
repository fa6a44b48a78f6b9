"""The tool-call judge: the calls in a completion against expected calls, and against the tools' schemas.

`cca.problems.judges.tool_call_forms` reads them. A call that was attempted and not understood makes a completion
unreadable, never "no call".

A gold answer is JSON: one call ``{"name": ..., "arguments": {...}}``, a list of calls in any order, or ``[]`` for
"no tool fits". An expected argument may be ``{"$any": [...]}`` (one of these values) or ``{"$optional": value}``
(this value or left out). Everything else must be equal: an argument that was not expected makes a call wrong,
unless it repeats the default in the tool's schema. 5 equals 5.0; True is not 1; "5" is not 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from cca.errors import CcaError
from cca.problems.judges.judge import UNREADABLE, Judgement, judgement
from cca.problems.judges.reading import WholeReader
from cca.problems.judges.tool_call_forms import ATTEMPT, DECODER, Call, Raw, as_call, begins_another, read_calls


class ToolCallJudge(WholeReader):
    """``tools``: definitions of the tools, ``{"name", "parameters": JSON schema}``, also in OpenAI's wrapping.

    With ``tools`` a call must name one of them and its arguments must satisfy its schema.
    """

    name = "tool-call"

    def __init__(
        self, *, tools: Sequence[Mapping[str, Any]] = (), ignore_case: bool = False, thinking: bool = False
    ) -> None:
        super().__init__(thinking=thinking)
        self.ignore_case = ignore_case
        self.schemas = dict(map(_definition, tools))
        self.validators = {name: _validator(name, schema) for name, schema in self.schemas.items()}

    def __call__(self, text: str, gold: str, *, cut_off: bool = False) -> Judgement:
        expected = _gold(gold)
        text, open_end = self.answer(text, cut_off)
        try:
            calls = [self._typed(call) for call in read_calls(text)]
            if not calls:
                silent = not text or open_end or ATTEMPT.search(text) is not None
                return UNREADABLE if silent or expected else judgement("[]", True)
            if begins_another(text):
                return UNREADABLE
            answer = "\n".join(str(call) for call in calls)
            return judgement(answer, self._valid(calls) and self._same(calls, expected))
        except RecursionError:  # nested beyond all sense
            return UNREADABLE

    def check_gold(self, gold: str) -> None:
        for call in _gold(gold):
            if self.schemas and call.name not in self.schemas:
                known = ", ".join(self.schemas)
                raise CcaError(f"judge 'tool-call': expected a gold call of {known}, got {call.name!r}")

    def _typed(self, call: Call) -> Call:
        """``call`` with arguments of open type as the tool's schema has them."""

        def typed(key: str, value: Any) -> Any:
            is_open = isinstance(value, Raw) and self._property(call, key).get("type", "string") != "string"
            return value.value() if is_open else value

        return Call(call.name, {key: typed(key, value) for key, value in call.arguments.items()})

    def _property(self, call: Call, key: str) -> Mapping[str, Any]:
        return self.schemas.get(call.name, {}).get("properties", {}).get(key, {})

    def _valid(self, calls: list[Call]) -> bool:
        own = self.validators
        return not own or all(call.name in own and own[call.name].is_valid(call.arguments) for call in calls)

    def _same(self, calls: list[Call], expected: Sequence[Call]) -> bool:
        remaining = list(expected)
        for call in calls:
            match = next((other for other in remaining if self._matches(call, other)), None)
            if match is None:
                return False
            remaining.remove(match)
        return not remaining

    def _matches(self, call: Call, expected: Call) -> bool:
        def same(key: str) -> bool:
            default = {"$optional": self._property(call, key).get("default", _MISSING)}
            wanted = expected.arguments.get(key, default)
            return _equal(call.arguments.get(key, _MISSING), wanted, self.ignore_case)

        return call.name == expected.name and all(map(same, {*call.arguments, *expected.arguments}))


_MISSING = object()
"""An argument that was left out; unequal to every JSON value."""


def _equal(value: Any, wanted: Any, ignore_case: bool) -> bool:
    if isinstance(value, Raw) and not isinstance(wanted, str | dict):
        value = value.value()
    if isinstance(wanted, dict) and len(wanted) == 1:
        if "$optional" in wanted:
            return value is _MISSING or _equal(value, wanted["$optional"], ignore_case)
        if "$any" in wanted and isinstance(wanted["$any"], list):
            return any(_equal(value, one, ignore_case) for one in wanted["$any"])
    if isinstance(value, dict) and isinstance(wanted, dict):
        keys = {*value, *wanted}
        return all(_equal(value.get(key, _MISSING), wanted.get(key, _MISSING), ignore_case) for key in keys)
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(_equal(*pair, ignore_case) for pair in zip(value, wanted, strict=True))
    if isinstance(value, str) and isinstance(wanted, str):
        value, wanted = value.strip(), wanted.strip()
        return value.casefold() == wanted.casefold() if ignore_case else value == wanted
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted


@lru_cache(maxsize=65536)
def _gold(gold: str) -> tuple[Call, ...]:
    try:
        value = DECODER.decode(gold)
    except (ValueError, RecursionError) as error:
        raise CcaError(f"judge 'tool-call': expected a gold answer of JSON calls, got {gold!r} ({error})") from error
    items = value if isinstance(value, list) else [value]
    calls = tuple(filter(None, map(as_call, items)))
    if len(calls) != len(items):
        raise CcaError(f'judge \'tool-call\': expected calls {{"name": ..., "arguments": {{...}}}}, got {gold!r}')
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
        from referencing.exceptions import Unresolvable
    except ImportError as error:
        raise CcaError("judge 'tool-call' with tools needs jsonschema: pip install -e \".[tools]\"") from error
    kind = validator_for(schema)
    try:
        kind.check_schema(dict(schema))
        kind(schema).is_valid({})
    except (SchemaError, Unresolvable, RecursionError) as error:
        reason = " ".join(str(getattr(error, "message", error)).split())[:200]
        raise CcaError(f"judge 'tool-call': tool {name!r} has a faulty schema: {reason}") from error
    return kind(schema)

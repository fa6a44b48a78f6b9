"""Tool calls as models write them.

JSON (bare, fenced, in ``<tool_call>`` or OpenAI's wrapping), XML (``<function=f>``, ``<invoke name="f">``,
``<arg_key>``), ``f[ARGS]{...}``, harmony's ``to=functions.f`` and a Python list ``[f(x=1)]``.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cca.files import refuse_constant

_OPENING = re.compile(r"[{\[]")
_LONGEST_NUMBER = 300
_TRIES = 64
"""Opening brackets of a text that are tried as the start of a call."""
_LONGEST_BLOCK = 20_000
_NAMES = ("name", "tool", "tool_name", "function_name")
_ARGUMENTS = ("arguments", "parameters", "args", "input", "tool_input", "kwargs")
_NAME = r"[\w.-]{1,100}"
_NAMED_JSON = re.compile(
    rf"({_NAME})\s{{0,9}}(?:\[CALL_ID\]\w{{0,40}})?\[ARGS\]\s{{0,9}}"
    rf"|to=(?:functions\.)?({_NAME})[^{{\n]{{0,80}}<\|message\|>\s{{0,9}}"
    rf"|<\uff5ctool\u2581sep\uff5c>({_NAME})\s{{0,9}}(?:```json)?\s{{0,9}}"
    rf"|functions\.({_NAME}):\d{{1,4}}\s{{0,9}}<\|tool_call_argument_begin\|>\s{{0,9}}"
    rf"|<function=({_NAME})>\s{{0,9}}(?={{)"
)
"""A function's name before its arguments in JSON: Mistral, gpt-oss, DeepSeek, Kimi, Llama 3."""
_XML = re.compile(rf'<(function)=({_NAME})>|<(invoke) name="({_NAME})">')
_XML_ARGUMENT = re.compile(
    r'<parameter=([^<>\n]{1,100})>(.*?)</parameter>|<parameter name="([^"\n]{1,100})"[^<>]*>(.*?)</parameter>'
    r"|<arg_key>(.{1,100}?)</arg_key>\s*<arg_value>(.*?)</arg_value>",
    re.DOTALL,
)
_BARE_NAME = re.compile(rf"\s*({_NAME})\s*(?=<arg_key>|\Z)")
ATTEMPT = re.compile(
    r"\A\s*\[[A-Za-z_]\w*\(|<\|?/?tool_?call|<\uff5ctool\u2581|<function=|<invoke\b|\[TOOL_CALLS?\]|\[ARGS\]|<\|python_tag\|>|to=functions\.|functions\.\w+:\d"
    r'|"tool_calls"|"function_call"|\u273fFUNCTION\u273f|```tool_(?:code|call)'
    r'|\{\s*"(?:name|tool|tool_name|function|function_name)"\s*:\s*"[^"\n]*"\s*,\s*"(?:arg|param|input|tool_input|kwargs)',
    re.IGNORECASE,
)


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:  # which no float of a schema could be compared with
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


DECODER = json.JSONDecoder(parse_int=_integer, parse_constant=refuse_constant)


class Raw(str):
    """An argument written without quotes, so that its type is open: the text itself, or the JSON value it spells."""

    __slots__ = ()

    def value(self) -> Any:
        try:
            return DECODER.decode(self)
        except (ValueError, RecursionError):
            return str(self)


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        call = {"name": self.name, "arguments": self.arguments}
        return json.dumps(call, sort_keys=True, ensure_ascii=False)


def read_calls(text: str) -> list[Call]:
    """The calls in ``text``: those of a wrapping where there is one, else wherever JSON with arguments stands."""
    readers = (_wrapped_calls, _named_calls, _xml_calls, _fenced_calls, _python_calls, _json_calls)
    return next((calls for calls in (list(read(text)) for read in readers) if calls), [])


def begins_another(text: str) -> bool:
    """True when the text ends within a call."""
    _, opening, call = text.rpartition("<tool_call>")
    return bool(opening) and "</tool_call>" not in call and not read_calls(call)


def _wrapped_calls(text: str) -> Iterator[Call]:
    for block in _between(text, "<tool_call>", "</tool_call>"):
        found = list(_json_calls(block, bare=True)) or list(_named_calls(block)) or list(_xml_calls(block))
        name = _BARE_NAME.match(block)
        yield from found or ([Call(name[1], _xml_arguments(block))] if name else [])


def _fenced_calls(text: str) -> Iterator[Call]:
    for block in _between(text, "```", "```"):
        yield from list(_json_calls(block, bare=True)) or _python_calls(block.removeprefix("tool_code"))


def _between(text: str, opening: str, closing: str) -> Iterator[str]:
    for _ in range(_TRIES):
        start = text.find(opening)
        end = text.find(closing, start + len(opening)) if start >= 0 else -1
        if end < 0:
            return
        yield text[start + len(opening) : end]
        text = text[end + len(closing) :]


def _named_calls(text: str) -> Iterator[Call]:
    for match in islice(_NAMED_JSON.finditer(text), _TRIES):
        value, _ = _decode(text, match.end())
        name = next(group for group in match.groups() if group)
        if isinstance(value, dict):
            yield Call(name, value)


def _xml_calls(text: str) -> Iterator[Call]:
    for match in islice(_XML.finditer(text), _TRIES):
        end = text.find(f"</{match[1] or match[3]}>", match.end())
        if end >= 0:
            yield Call(match[2] or match[4], _xml_arguments(text[match.end() : end]))


def _xml_arguments(block: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for match in islice(_XML_ARGUMENT.finditer(block[:_LONGEST_BLOCK]), _TRIES):
        key, value = (group for group in match.groups() if group is not None)
        arguments[key.strip()] = Raw(value.removeprefix("\n").removesuffix("\n"))
    return arguments


def _python_calls(text: str) -> Iterator[Call]:
    """A Python list of calls with literal keyword arguments, and nothing else."""
    code = text.strip().removeprefix("<|python_tag|>").removeprefix("[TOOL_CALLS]").strip()
    if len(code) > _LONGEST_BLOCK or not code.endswith((")", ")]")):
        return
    made: list[Call] = []
    try:
        tree = ast.parse(code, mode="eval").body
        calls = tree.elts if isinstance(tree, ast.List) else [tree]
        for call in calls:
            if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
                return
            arguments = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
            made.append(Call(ast.unparse(call.func), arguments))
        json.dumps([call.arguments for call in made])
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return
    yield from made


def _json_calls(text: str, bare: bool = False) -> Iterator[Call]:
    position = 0
    bare = bare or text.strip()[:1] in ("{", "[")
    for _ in range(_TRIES):
        opening = _OPENING.search(text, position)
        if opening is None:
            return
        value, position = _decode(text, opening.start())
        if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
            value = value["tool_calls"]
        yield from filter(None, (as_call(item, bare) for item in (value if isinstance(value, list) else [value])))


def _decode(text: str, start: int) -> tuple[Any, int]:
    """The JSON value at ``start`` and where it ends; None where there is none."""
    try:
        return DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start + 1


def as_call(value: Any, bare: bool = True) -> Call | None:
    """``value`` as a call; ``bare``: a name alone is one too."""
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    if isinstance(inner, dict):
        return as_call(inner, bare)
    if isinstance(inner, str):
        value = {"name": inner, **value}
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
    key = next((key for key in _ARGUMENTS if key in value), None)
    if name is None or (key is None and not (bare and value.keys() <= {*_NAMES, "function", "id", "type"})):
        return None
    arguments = {} if key is None else value[key]
    if isinstance(arguments, str):
        arguments, _ = _decode(arguments.strip(), 0)
    return Call(name, arguments) if isinstance(arguments, dict) else None

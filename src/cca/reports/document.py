"""A Document: typed access to a JSON object nobody vouches for.

Keys that are missing or null read as None, so a partial or older report still renders; a value of the wrong type
is a fault and named.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cca.errors import CcaError


class Document:
    """A JSON object called ``name``. Every reader takes the keys on the way down to its value."""

    def __init__(self, value: Mapping[str, Any], name: str = "report") -> None:
        self.value, self.name = value, name

    def __bool__(self) -> bool:
        return bool(self.value)

    def number(self, *path: str) -> float | None:
        """A finite number. Raises CcaError for anything else that is there."""
        found = self._at(path)
        return None if found is None else self._finite(found, path)

    def count(self, *path: str) -> int | None:
        """A whole number. Raises CcaError for anything else that is there."""
        found = self.number(*path)
        if found is not None and found != int(found):
            raise self._fault(path, "a whole number", found)
        return None if found is None else int(found)

    def flag(self, *path: str) -> bool | None:
        return self._typed(path, bool, "true or false")

    def text(self, *path: str) -> str | None:
        return self._typed(path, str, "a text")

    def interval(self, *path: str) -> tuple[float, float] | None:
        """[low, high]. Raises CcaError for anything else that is there."""
        found = self._at(path)
        if found is None:
            return None
        if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != 2:
            raise self._fault(path, "[low, high]", found)
        low, high = (self._finite(end, path) for end in found)
        if low > high:
            raise self._fault(path, "[low, high]", found)
        return low, high

    def section(self, *path: str) -> Document:
        """The object there; an empty one where there is none."""
        found = self._typed(path, Mapping, "an object")
        return Document(found or {}, self._name(path))

    def sections(self, *path: str) -> dict[str, Document]:
        """The objects that the object there holds, by key."""
        whole = self.section(*path)
        return {key: whole.section(key) for key in whole.value}

    def rows(self, *path: str) -> list[Document]:
        """The objects of the list there; none where there is no list."""
        found = self._typed(path, list, "a list") or []
        for row in found:
            if not isinstance(row, Mapping):
                raise self._fault(path, "a list of objects", row)
        return [Document(row, f"{self._name(path)}[{index}]") for index, row in enumerate(found)]

    def raw(self, *path: str) -> Any:
        """Whatever is there."""
        return self._at(path)

    def _at(self, path: Sequence[str]) -> Any:
        found: Any = self.value
        for depth, key in enumerate(path):
            if found is None:
                return None
            if not isinstance(found, Mapping):
                raise self._fault(path[:depth], "an object", found)
            found = found.get(key)
        return found

    def _typed(self, path: Sequence[str], kind: type, expected: str) -> Any:
        found = self._at(path)
        if found is not None and not isinstance(found, kind):
            raise self._fault(path, expected, found)
        return found

    def _finite(self, value: Any, path: Sequence[str]) -> float:
        largest = sys.float_info.max
        # The comparison is exact for whole numbers too large for a float, and false for NaN.
        if isinstance(value, bool) or not isinstance(value, int | float) or not -largest <= value <= largest:
            raise self._fault(path, "a finite number", value)
        return float(value)

    def _name(self, path: Sequence[str]) -> str:
        return ".".join((self.name, *path))

    def _fault(self, path: Sequence[str], expected: str, found: Any) -> CcaError:
        # repr of a huge integer is refused by Python, and a long one helps nobody.
        shown = "a huge number" if isinstance(found, int) and abs(found) > 10**40 else repr(found)[:80]
        return CcaError(f"{self._name(path)}: expected {expected}, got {shown}; is the file damaged?")

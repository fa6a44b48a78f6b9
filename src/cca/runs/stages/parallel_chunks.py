"""Chunks side by side, where an engine has several copies of the model; their results in the order of the chunks.

What a chunk asks of the engine does not depend on the others, so its results, and the file they are appended to, are
those of chunks done one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from cca.engines.engine import Progress

Chunk = TypeVar("Chunk")
Made = TypeVar("Made")
Item = TypeVar("Item")


def in_order(chunks: Iterable[Chunk], work: Callable[[Chunk], Made], lanes: int) -> Iterator[Made]:
    """``work`` on every chunk, ``lanes`` of them at a time; what is begun and not asked for any more is let go."""
    if lanes == 1:
        yield from map(work, chunks)
        return
    pool, begun, left = ThreadPoolExecutor(lanes, "lane"), deque[Future[Made]](), iter(chunks)
    try:
        while True:
            while len(begun) < lanes and (chunk := next(left, None)) is not None:
                begun.append(pool.submit(work, chunk))
            if not begun:
                return
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def chunked(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def one_at_a_time(progress: Progress) -> Progress:
    """``progress``, for use by several lanes."""
    lock = Lock()

    def locked(done: int) -> None:
        with lock:
            progress(done)

    return locked

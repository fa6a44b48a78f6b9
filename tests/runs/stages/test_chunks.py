"""Chunks side by side: the order of the results, how many run at once, and what a fault does."""

from __future__ import annotations

import threading
import time

import pytest

from cca.runs.stages.traces_and_pivots import in_order


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_results_come_in_the_order_of_the_chunks(at_once: int) -> None:
    running, most, lock = 0, 0, threading.Lock()
    side_by_side = threading.Barrier(at_once, timeout=60)

    def work(chunk: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if chunk <= at_once:
            side_by_side.wait()  # breaks unless so many chunks are worked on at once
        time.sleep(0.02 if chunk % 3 == 0 else 0.001)
        with lock:
            running -= 1
        return chunk * chunk

    assert list(in_order(range(1, 12), work, at_once)) == [n * n for n in range(1, 12)]
    assert most == at_once


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_fault_comes_at_its_place_and_ends_the_rest(at_once: int) -> None:
    begun: list[int] = []

    def work(chunk: int) -> int:
        begun.append(chunk)
        if chunk == 2:
            raise ValueError("broken")
        return chunk

    results = in_order(range(100), work, at_once)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="broken"):
        next(results)
    assert len(begun) <= 3 + at_once

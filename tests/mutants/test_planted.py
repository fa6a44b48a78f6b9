from __future__ import annotations

from tests.mutants.__main__ import misplaced
from tests.mutants.faults import FAULTS


def test_every_fault_can_be_planted_where_it_says() -> None:
    assert not [(fault.name, why) for fault in FAULTS if (why := misplaced(fault))]
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)

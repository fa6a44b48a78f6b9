from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markup import Page

from cca.errors import CcaError
from cca.models.anatomy.components import Component
from cca.reports.circuit_picture import LEVELS, MOST_CELLS, circuit_picture, level

SMALL = [{"q": 4, "k": 2, "v": 2, "neuron": 384}] * 4


def cells(page: Page) -> list[tuple[str, str]]:
    """(class, title) of every chosen cell."""
    classes = [value for tag, name, value in page.attributes if name == "class" and value.startswith("chosen")]
    return list(zip(classes, page.all_of("title")[1:], strict=True))


def test_a_head_is_a_cell_and_neurons_share_cells() -> None:
    chosen = [Component(3, "q", 1), Component(0, "neuron", 0), Component(0, "neuron", 1), Component(0, "neuron", 383)]
    scores = {chosen[0]: 1.0, chosen[1]: 0.01, chosen[2]: 0.25}
    drawn = cells(Page(circuit_picture(SMALL, chosen, scores)))
    assert sorted(drawn) == sorted(
        [
            (f"chosen level{LEVELS}", "L3.q1, score 1"),
            ("chosen level3", "L0 MLP neurons 0–1: 2 chosen (L0.neuron0, …), score 0.25"),
            (f"chosen level{LEVELS}", "L0 MLP neurons 382–383: 1 chosen (L0.neuron383)"),
        ]
    )


def test_the_first_layer_is_at_the_bottom() -> None:
    drawn = circuit_picture(SMALL, [Component(0, "q", 0), Component(3, "q", 0)], {})
    tops = [int(y) for y in re.findall(r'<rect x="0" y="(\d+)"[^>]*class="chosen', drawn)]
    assert len(tops) == 2
    assert tops[0] > tops[1] == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 100_000), st.data())
def test_every_cell_names_the_components_it_holds(count: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, count - 1))
    drawn = Page(circuit_picture([{"neuron": count}], [Component(0, "neuron", index)], {}))
    ((_, title),) = cells(drawn)
    if count <= MOST_CELLS["neuron"]:
        assert title == f"L0.neuron{index}"
    elif found := re.match(r"L0 MLP neurons (\d+)–(\d+):", title):
        assert int(found[1]) <= index <= int(found[2]) < count
    else:
        assert title == f"L0.neuron{index}"


def test_a_large_model_costs_what_a_small_one_does() -> None:
    large = [{"q": 128, "k": 8, "v": 8, "neuron": 10**15}] * 126
    chosen = [Component(layer, "neuron", n * 10**9) for layer in range(126) for n in range(400)]
    drawn = circuit_picture(large, chosen, dict.fromkeys(chosen, 1.0))
    Page(drawn)
    assert len(drawn) < 300_000


def test_layers_may_lack_heads_or_neurons() -> None:
    mixed = [{"q": 4, "k": 1, "v": 1, "neuron": 0}, {"neuron": 10}, {}]
    Page(circuit_picture(mixed, [Component(0, "k", 0), Component(1, "neuron", 9)], {}))
    Page(circuit_picture([{"q": 4, "k": 4, "v": 4}], [Component(0, "v", 3)], {}))
    Page(circuit_picture([], [], {}))


@pytest.mark.parametrize("component", [Component(4, "q", 0), Component(0, "k", 2), Component(0, "neuron", 384)])
def test_a_component_of_another_model_is_refused(component: Component) -> None:
    with pytest.raises(CcaError, match=f"{component} is not in the model"):
        circuit_picture(SMALL, [component], {})


def test_levels_rise_with_the_score() -> None:
    assert [level(score, 1.0) for score in (0.0, 0.05, 0.1, 0.3, 0.6, 1.0)] == [1, 1, 2, 3, 4, 4]
    assert level(-1.0, 1.0) == level(None, 1.0) == level(0.0, 0.0) == LEVELS

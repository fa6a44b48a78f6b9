"""The table of one model, counted by hand on small histories."""

from __future__ import annotations

from write_results import base_of, drifts_by_model, gains_by_model, model_cells, models_of, results_page

from cca.compare.combine import combined
from cca.compare.config import compare_config
from cca.compare.results import Comparison
from compare_rows import history, row

CONFIG = compare_config(
    {"out": "o", "models": [{"model": "m"}, {"model": "n"}], "arms": [{"name": "ours"}, {"name": "rival"}]}
)


def result() -> Comparison:
    rows = [
        row("ours", history((0.5, 0), (0.6, 0.1), (0.7, 0.2), (0.9, 3.0))),
        *(
            row("ours: random", history((0.5, 0), (accuracy, drift)), control="random", draw=draw)
            for draw, (accuracy, drift) in enumerate([(0.75, 0.8), (0.75, 1.2), (0.6, 0.1)], start=1)
        ),
        {**row("ours", history((0.4, 0), (0.5, 0.1))), "model": "n"},
        {**row("rival", history((0.4, 0), (0.45, 9.0))), "model": "n"},
    ]
    return combined(CONFIG, rows)


def test_medians_over_draws_and_how_many_reached_the_reference() -> None:
    made = result()
    assert (models_of(made), base_of(made, "n")) == (["m", "n"], [0.4])
    rows = {cells[0]: cells for cells in model_cells(made, "m").rows}
    assert list(rows) == ["ours", "ours: random"]
    assert rows["ours"][2:] == ("+20.0", "0.2", "+40.0", "3", "1 of 1", "0.2", "1x")
    # draws: +25, +0 (over the budget) and +10 inside it; two of three reach +20, at 0.8 and 1.2
    assert rows["ours: random"][2:] == ("+10.0", "0.1", "+25.0", "0.8", "2 of 3", "1", "5x")
    assert {cells[0]: cells[6:] for cells in model_cells(made, "n").rows}["rival"] == ("0 of 1", "–", "–")


def test_arms_by_models() -> None:
    made = result()
    gains = {cells[0]: cells[1:] for cells in gains_by_model(made).rows}
    assert gains == {"ours": ("+20.0", "+10.0"), "ours: random": ("+10.0", "–"), "rival": ("–", "0.0")}
    drifts = {cells[0]: cells[1:] for cells in drifts_by_model(made).rows}
    assert drifts == {"ours": ("1x", "1x"), "ours: random": ("5x (2 of 3)", "–"), "rival": ("–", "– (0 of 1)")}


def test_the_page_tells_every_model_apart() -> None:
    page = results_page({"t": result()}, "# r")
    assert "### m\n\nUntouched, on the validation problems that judge steps: 50.0" in page
    assert page.index("### m") < page.index("### n") < page.rindex("| rival | 3")

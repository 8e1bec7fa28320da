"""What the figures show, before it is drawn; and that they are drawn the same each time."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from hptransfer import figures
from hptransfer.figures.cells import anchor, cells_of, recipe_labels
from hptransfer.figures.curves import Curve, coarser, thin
from hptransfer.figures.flatness import lines_of, middle
from hptransfer.figures.style import power_of_two, some
from hptransfer.rows import Row

BASE = Row(params=1e6, tokens=2e7, lr=0.01, batch_tokens=4096.0, loss=3.0, width=64.0, depth=4.0, seed=0)


def row(lr: float, loss: float, **changes: Any) -> Row:
    """A run with a source of its own."""
    known = replace(BASE, lr=lr, loss=loss, **changes)
    return replace(known, source=known.source or f"runs/{hash((lr, loss, str(changes))) & 0xFFFFFFFF:x}")


def valley(optimum: float, lrs: list[float], **changes: Any) -> list[Row]:
    """loss = 3 + 0.1 ln(lr / optimum)^2."""
    return [row(lr, 3 + 0.1 * math.log(lr / optimum) ** 2, **changes) for lr in lrs]


LRS = [2.0**-k for k in range(4, 11)]


def test_the_optimum_of_a_parabola_is_its_vertex() -> None:
    (cell,) = cells_of(valley(0.0123, LRS))
    assert cell.optimum is not None
    assert cell.optimum.lr == pytest.approx(0.0123, rel=1e-9)
    assert cell.optimum.floor == pytest.approx(3.0, rel=1e-12)
    assert (cell.optimum.low, cell.optimum.high) == (2.0**-7, 2.0**-5)
    assert cell.optimum.edge == ""
    assert [setting.lr for setting in cell.curve] == sorted(LRS)


def test_three_points_by_hand() -> None:
    """Losses 3.2, 3.0, 3.1 at x = -1, 0, 1 octaves: vertex at 1/6 octave, 3 - (0.05)^2 / (4 * 0.15)."""
    (cell,) = cells_of([row(0.5, 3.2), row(1.0, 3.0), row(2.0, 3.1)])
    assert cell.optimum is not None
    assert cell.optimum.lr == pytest.approx(2 ** (1 / 6), rel=1e-12)
    assert cell.optimum.floor == pytest.approx(3 - 0.0025 / 0.6, rel=1e-12)


@pytest.mark.parametrize(
    ("losses", "edge", "low", "high"),
    [
        ([3.0, 3.1, 3.2], "lowest", 0.0, 2.0),
        ([3.2, 3.1, 3.0], "highest", 2.0, math.inf),
        ([3.0], "only", 0.0, math.inf),
        ([3.1, 3.0, math.nan], "", 1.0, 4.0),
    ],
)
def test_an_edge_leaves_the_interval_open_and_a_diverged_neighbour_closes_it(
    losses: list[float], edge: str, low: float, high: float
) -> None:
    rows = [row(2.0**i, x, status="finished" if math.isfinite(x) else "diverged") for i, x in enumerate(losses)]
    (cell,) = cells_of(rows)
    assert cell.optimum is not None
    assert (cell.optimum.edge, cell.optimum.low, cell.optimum.high) == (edge, low, high)
    assert cell.optimum.lr == cell.optimum.best.lr  # too little for a parabola


def test_seeds_are_averaged_and_a_lucky_one_does_not_hide_a_diverged_one() -> None:
    two = [row(1.0, 3.0, seed=0), row(1.0, 3.2, seed=1)]
    unlucky = [row(2.0, 2.5, seed=0), row(2.0, math.nan, seed=1, status="diverged")]
    (cell,) = cells_of([*two, *unlucky])
    assert cell.curve[0].loss == pytest.approx(3.1)
    assert cell.curve[0].sem == pytest.approx(0.1)  # sd 0.1414 over sqrt 2
    assert math.isnan(cell.curve[1].loss)
    assert cell.optimum is not None
    assert cell.optimum.best is two[0]


def test_the_curve_takes_the_best_batch_and_weight_decay_at_each_lr() -> None:
    rows = [row(1.0, 3.0), row(1.0, 2.9, batch_tokens=8192.0), row(1.0, 2.8, weight_decay=0.1)]
    (cell,) = cells_of(rows)
    assert [setting.best for setting in cell.curve] == [rows[2]]


def test_a_stopped_run_is_no_evidence_of_an_optimum() -> None:
    (cell,) = cells_of([row(1.0, 3.0), row(2.0, 2.0, status="stopped")])
    assert cell.optimum is not None
    assert cell.optimum.best.loss == 3.0


def test_cells_are_recipe_shape_and_budget_up_to_rounding() -> None:
    rows = [
        row(1.0, 3.0, tokens=1e6),
        row(2.0, 3.0, tokens=1.004e6),
        row(1.0, 3.0, tokens=2e6),
        row(1.0, 3.0, tokens=1e6, width=128.0, params=4e6),
        row(1.0, 3.0, tokens=1e6, recipe={"parametrization": "sp"}),
    ]
    assert sorted(len(cell.rows) for cell in cells_of(rows)) == [1, 1, 1, 2]


def test_the_number_of_parameters_tells_cells_apart_that_share_a_name() -> None:
    clear, first, second = (row(1.0, 3.0, **c) for c in ({"width": 32.0}, {"params": 2e6}, {"params": 3e6}))
    assert [cell.label for cell in cells_of([clear, first, second])] == [
        "width 32 × depth 4, 20 M tokens",
        "width 64 × depth 4, 20 M tokens, 2 M params",
        "width 64 × depth 4, 20 M tokens, 3 M params",
    ]


def test_recipes_are_told_apart_by_no_more_keys_than_needed() -> None:
    def run(**recipe: str | float) -> Row:
        return row(1.0, 3.0, recipe=recipe)

    sp, mup = run(parametrization="sp", seq_len=128.0), run(parametrization="mup", base_width=64.0, seq_len=128.0)
    assert recipe_labels([sp, mup]) == ["sp", "mup"]
    assert recipe_labels([mup, mup]) == ["", ""]
    longer = run(parametrization="sp", seq_len=256.0)
    assert recipe_labels([sp, longer]) == ["seq_len 128", "seq_len 256"]
    assert recipe_labels([sp, run()]) == ["sp", "recipe not given"]


losses = st.floats(0.5, 10.0) | st.just(math.nan)
settings = st.tuples(st.floats(1e-6, 10.0), losses, st.sampled_from([0, 1]), st.sampled_from([1024.0, 2048.0]))


@given(st.lists(settings, min_size=1, max_size=12))
def test_the_optimum_lies_in_its_interval_and_no_run_is_lost(runs: list[tuple[float, float, int, float]]) -> None:
    rows = [
        row(lr, loss, seed=seed, batch_tokens=batch, status="diverged" if math.isnan(loss) else "finished")
        for lr, loss, seed, batch in runs
    ]
    cells = cells_of(rows)
    assert sorted(id(one) for cell in cells for one in cell.rows) == sorted(map(id, rows))
    for cell in cells:
        assert [setting.lr for setting in cell.curve] == sorted({one.lr for one in cell.rows})
        if cell.optimum:
            assert cell.optimum.low <= cell.optimum.lr <= cell.optimum.high
            assert cell.optimum.floor <= min(s.loss for s in cell.curve if math.isfinite(s.loss))


def test_a_thinned_curve_is_the_means_of_equal_parts() -> None:
    steps = [{"step": i, "tokens": 10 * i, "loss": float(i), "lr": 0.1, "grad_norm": None} for i in range(1, 7)]
    steps[1]["grad_norm"] = 4.0
    curve = thin(steps, 3)
    assert curve.tokens == (20.0, 40.0, 60.0)
    assert curve.values["loss"] == (1.5, 3.5, 5.5)
    assert curve.values["grad_norm"][0] == 4.0
    assert all(map(math.isnan, curve.values["grad_norm"][1:]))
    assert set(curve.values) == {"loss", "grad_norm"}
    assert thin([], 3) == Curve()


@given(st.integers(1, 400), st.integers(1, 150))
def test_thinning_keeps_the_end_and_the_weight_of_every_step(count: int, points: int) -> None:
    curve = thin([{"tokens": i, "loss": 1.0} for i in range(1, count + 1)], points)
    assert len(curve.tokens) == min(count, points)
    assert curve.tokens[-1] == count
    assert set(curve.values["loss"]) == {1.0}


def test_a_curve_is_thinned_again_over_what_is_known_of_it() -> None:
    curve = Curve((1.0, 2.0, 3.0, 4.0), {"loss": (4.0, math.nan, 2.0, 1.0)})
    assert coarser(curve, 2) == Curve((2.0, 4.0), {"loss": (4.0, 1.5)})


def curves_for(rows: list[Row]) -> dict[str, Curve]:
    values = {"loss": (4.0, 3.0), "grad_norm": (1.0, 0.5), "update/hidden": (0.01, 0.02)}
    return {one.source: Curve((1e6, 1e7), values) for one in rows}


def drawn(rows: list[Row]) -> dict[str, Figure | None]:
    curves = curves_for(rows)
    return {
        "u_curves": figures.u_curves(rows),
        "optimum": figures.optimum_against_size(rows),
        "training": figures.training_curves(rows, curves),
        "stability": figures.stability(rows, curves),
        "flatness": figures.stability_against_size(rows, curves),
    }


TWO_SIZES = [
    *valley(0.01, LRS, recipe={"parametrization": "mup"}),
    *valley(0.005, LRS, width=256.0, params=1.6e7, recipe={"parametrization": "mup"}),
    *valley(0.002, LRS, width=256.0, params=1.6e7, recipe={"parametrization": "sp"}),
    row(0.5, math.nan, status="diverged", recipe={"parametrization": "sp"}),
]


def watched(stream: float) -> Curve:
    """Looks at a tenth, three, five and nine tenths of a run; the middle half holds the second and the third."""
    looks = (9.0, stream * 0.5, stream * 1.5, 7.0)
    values = {"loss": (4.0,) * 4, "update/hidden": (0.01,) * 4, "activation/stream": looks, "grad_norm": (1.0,) * 4}
    return Curve((1e6, 3e6, 5e6, 1e7), values)


def test_watched_quantities_against_size() -> None:
    """Best runs alone, by recipe and by the other dimension; what grows with width grows, what is flat is flat."""
    rows = [
        one
        for width in (64.0, 128.0, 256.0)
        for depth in (2.0, 4.0)
        for one in valley(0.01, LRS, width=width, depth=depth, params=width * width * depth)
    ]
    best = {cell.optimum.best.source for cell in cells_of(rows) if cell.optimum}
    curves = {one.source: watched((one.width or 0) / 64 if one.source in best else 1e9) for one in rows}
    assert middle(curves[next(iter(best))]).keys() == {"update/hidden", "activation/stream"}
    over_width = lines_of("width", cells_of(rows), curves)
    assert [line.sizes for line in over_width] == [[64.0, 128.0, 256.0]] * 2
    for line in over_width:
        assert [values["activation/stream"] for values in line.values] == pytest.approx([1.0, 2.0, 4.0])
        assert [values["update/hidden"] for values in line.values] == pytest.approx([0.01] * 3)
    assert [line.sizes for line in lines_of("depth", cells_of(rows), curves)] == [[2.0, 4.0]] * 3
    figure = figures.stability_against_size(rows, curves)
    assert figure is not None
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "size of an update over the weights', over width",
        "activations and logits, over width",
        "size of an update over the weights', over depth",
        "activations and logits, over depth",
    ]
    drawn = [list(line.get_ydata()) for line in figure.axes[1].get_lines()[1:]]
    assert drawn == [pytest.approx([1.0, 2.0, 4.0])] * 2
    low, high = figure.axes[0].get_ylim()
    assert low < 0.5 and high > 2, "what is flat has to look flat"


def test_one_size_is_not_drawn_against_size() -> None:
    rows = valley(0.01, LRS)
    assert figures.stability_against_size(rows, {one.source: watched(1.0) for one in rows}) is None
    unwatched = {one.source: Curve((1e6,), {"loss": (1.0,)}) for one in TWO_SIZES}
    assert figures.stability_against_size(TWO_SIZES, unwatched) is None


def test_the_same_rows_give_the_same_bytes() -> None:
    first, second = (
        {name: figure and figures.to_svg(figure, name) for name, figure in drawn(TWO_SIZES).items()} for _ in range(2)
    )
    assert first == second
    assert all(first.values())


def test_a_run_far_above_the_valley_is_still_there_and_does_not_flatten_it() -> None:
    """loss = 3 + 0.1 ln(lr / 0.01)^2 within two octaves; a run at 50 nats lies above the panel."""
    (axis,) = figures.u_curves([*valley(0.01, LRS), row(1.0, 50.0)]).axes
    assert axis.get_ylim()[1] < 3.4
    assert sum(len(points.get_offsets()) for points in axis.collections if points.get_urls() != [None]) == len(LRS) + 1


def test_every_run_is_a_link_in_the_u_curves_and_colours_follow_the_page() -> None:
    svg = figures.to_svg(figures.u_curves(TWO_SIZES), "u")
    assert set(re.findall(r'<a href="#(run-[0-9a-f]{10})"', svg)) == {anchor(one) for one in TWO_SIZES}
    assert "var(--ink, #1f2a37)" in svg
    assert "mup" in svg
    assert "sp" in svg


@pytest.mark.parametrize("rows", [[row(1.0, 3.0)], [row(1.0, math.nan, status="diverged", width=None, depth=None)]])
def test_one_run_is_drawn_without_complaint(rows: list[Row]) -> None:
    figures.to_svg(figures.u_curves(rows), "u")
    assert figures.optimum_against_size(rows) is None


def test_without_curves_there_are_no_training_figures() -> None:
    curves = {one.source: Curve() for one in TWO_SIZES}
    assert figures.training_curves(TWO_SIZES, curves) is None
    assert figures.stability(TWO_SIZES, curves) is None


def test_names_are_text_whatever_they_look_like() -> None:
    svg = figures.to_svg(
        figures.u_curves(
            [
                row(1.0, 3.0, recipe={"parametrization": name})
                for name in (r"$\frac{", "<b>&", "ünïcödé 模型 🚀", "plain")
            ]
        ),
        "u",
    )
    assert r"$\frac{" in svg
    assert "&lt;b&gt;&amp;" in svg
    assert "模型 🚀" in svg


def test_powers_of_two_and_some() -> None:
    assert power_of_two(-7) == "2⁻⁷"
    assert power_of_two(-7.5) == "2⁻⁷·⁵"
    assert some(range(100), 3) == [0, 50, 99]
    assert some([1, 2], 3) == [1, 2]

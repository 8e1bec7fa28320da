"""Rows of Shampoo, SOAP and K-FAC: against the exponents that the papers state, and against updates computed here."""

import numpy as np
import numpy.typing as npt
import pytest

from hptransfer.parametrization import FAMILIES, PRINTED_ONLY, SCHEMES, Ratios, rule, to_markdown

DEGREE = {"sgd": 1, "adam": 0, "shampoo": 0, "soap": 0, "kfac": -1}
"""An update goes as gradient^degree, eps left out."""

# Ishikawa & Karakida 2312.12226: lr as width^-c of input, hidden and output weights in the absorbed form, whose initial
# standard deviations go as width^-b, b = 0, 1/2, 1.
ABSORBED = {"sgd": (-1, 0, 1), "adam": (0, 1, 1), "kfac": (0, 0, 0), "shampoo": (-1 / 2, 0, 1 / 2)}

WIDTH = 4.0
RATIOS = {
    "embedding": Ratios(fan_out=WIDTH),
    "hidden": Ratios(fan_in=WIDTH, fan_out=WIDTH),
    "readout": Ratios(fan_in=WIDTH),
}
Matrix = npt.NDArray[np.float64]


@pytest.mark.parametrize("family", ABSORBED)
def test_lrs_over_width_are_those_of_the_paper(family: str) -> None:
    """The factor θ on the logits taken into the weights: std and lr times θ, and lr times θ^degree once more."""
    for role, c, b in zip(RATIOS, ABSORBED[family], (0, 1 / 2, 1), strict=True):
        row = rule("mup", family, role)
        theta = row.multiplier(RATIOS[role])
        assert row.init(RATIOS[role]) * theta == pytest.approx(WIDTH**-b), role
        assert row.lr(RATIOS[role]) * theta ** (1 + DEGREE[family]) == pytest.approx(WIDTH**-c), role


@pytest.mark.parametrize("family", ["shampoo", "soap"])
@pytest.mark.parametrize(("fan_in", "fan_out", "depth"), [(4, 4, 1), (2, 8, 4), (8, 2, 3)])
def test_hidden_rows_are_those_of_the_code(family: str, fan_in: float, fan_out: float, depth: float) -> None:
    """Qiu et al. 2512.05620, one block, exponents summing to E = 1/2: lr m_L^(1 - 2E) (m_out / m_in)^(1 - E); eps
    (m_in / m_out) / m_L^2 in Shampoo's factors, sqrt(m_in / m_out) / m_L in SOAP's roots."""
    ratios = Ratios(fan_in=fan_in, fan_out=fan_out, depth=depth)
    row, exponents = rule("spectral", family, "hidden.up"), 1 / 2
    lr = depth ** (1 - 2 * exponents) * (fan_out / fan_in) ** (1 - exponents)
    eps = {"shampoo": fan_in / fan_out / depth**2, "soap": (fan_in / fan_out) ** 0.5 / depth}[family]
    assert row.lr(ratios, 1.0) == pytest.approx(lr)
    assert row.eps(ratios, 1.0) == pytest.approx(eps)
    assert row.lr(ratios, 1.0) * row.weight_decay(ratios, 1.0) == pytest.approx(1)


def test_width_and_depth_have_the_same_shampoo_over_width() -> None:
    for role, ratios in RATIOS.items():
        ours, theirs = (rule(name, "shampoo", role) for name in ("mup", "spectral"))
        cells = [(row.init, row.multiplier, row.lr, row.eps, row.weight_decay) for row in (ours, theirs)]
        assert [cell(ratios) for cell in cells[0]] == pytest.approx([cell(ratios) for cell in cells[1]])


def test_gains_are_left_to_adamw() -> None:
    for name, family in (("mup", "kfac"), ("mup", "shampoo"), ("spectral", "soap")):
        row = rule(name, family, "vector.gain")
        assert row.optimizer == "adamw"
        adam = rule("completep" if name == "spectral" else "mup", "adam", "vector.gain")
        assert (row.lr, row.eps) == (adam.lr, adam.eps)


# --- updates, computed ---


def root(matrix: Matrix, exponent: float) -> Matrix:
    """A power of a symmetric positive matrix; eigenvalues of 0 stay."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-9 * values.max()
    return (vectors[:, kept] * values[kept] ** exponent) @ vectors[:, kept].T


def one_sample(fan_in: int, fan_out: int) -> tuple[Matrix, Matrix]:
    """(activations of Θ(1) entries, gradients of pre-activations of Θ(1 / fan_out) entries): a hidden layer of mup."""
    rng = np.random.default_rng(fan_in * fan_out)
    return rng.choice([-1.0, 1.0], fan_in), rng.choice([-1.0, 1.0], fan_out) / fan_out


SHAPES = [(16, 16), (64, 64), (64, 16), (16, 64)]
BASE = 16


@pytest.mark.parametrize(("fan_in", "fan_out"), SHAPES)
def test_an_update_of_shampoo_changes_every_pre_activation_alike(fan_in: int, fan_out: int) -> None:
    h, delta = one_sample(fan_in, fan_out)
    gradient = np.outer(delta, h)
    left, right = gradient @ gradient.T, gradient.T @ gradient
    update = root(left, -1 / 4) @ gradient @ root(right, -1 / 4)
    ratios = Ratios(fan_in=fan_in / BASE, fan_out=fan_out / BASE)
    row = rule("mup", "shampoo", "hidden")
    assert np.abs(row.lr(ratios) * update @ h) == pytest.approx(np.ones(fan_out))
    assert np.linalg.eigvalsh(left).max() == pytest.approx(row.eps(ratios) * 1.0)
    assert np.linalg.eigvalsh(right).max() ** 0.5 == pytest.approx(rule("spectral", "soap", "hidden.outer").eps(ratios))


@pytest.mark.parametrize(("fan_in", "fan_out"), SHAPES)
def test_an_update_of_kfac_changes_every_pre_activation_alike(fan_in: int, fan_out: int) -> None:
    h, delta = one_sample(fan_in, fan_out)
    update = root(np.outer(delta, delta), -1.0) @ np.outer(delta, h) @ root(np.outer(h, h), -1.0)
    row, ratios = rule("mup", "kfac", "hidden"), Ratios(fan_in=fan_in / BASE, fan_out=fan_out / BASE)
    assert np.abs(row.lr(ratios) * update @ h) == pytest.approx(np.ones(fan_out))


def test_they_are_printed_and_nothing_else_is_said_of_running_them() -> None:
    assert set(PRINTED_ONLY) == {"shampoo", "soap", "kfac"}
    assert not set(PRINTED_ONLY) & set(FAMILIES)
    for family, name in PRINTED_ONLY.items():
        assert family in SCHEMES[name].rules
        assert to_markdown(name, family).endswith("Printed only: not run here.\n")
    assert "2512.05620" in to_markdown("spectral", "soap")
    assert "2312.12226" in to_markdown("mup", "kfac")
    assert "not run" not in to_markdown("spectral", "muon")

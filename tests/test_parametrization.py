"""The table against rows typed by hand from the papers, and its printed form against itself."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hptransfer.errors import UserError
from hptransfer.parametrization import (
    FAMILIES,
    SCHEMES,
    Options,
    Power,
    Ratios,
    attention_scale,
    most_specific,
    rule,
    to_markdown,
)

WIDTH, DEPTH = 4.0, 2.0
RATIOS = {
    "embedding": Ratios(fan_out=WIDTH, depth=DEPTH),
    "hidden": Ratios(fan_in=WIDTH, fan_out=WIDTH, depth=DEPTH),
    "readout": Ratios(fan_in=WIDTH, depth=DEPTH),
    "vector": Ratios(fan_out=WIDTH, depth=DEPTH),
}
"""At four times the base's width and twice its depth."""

HALF = math.sqrt(0.5)

# (init, multiplier, lr, eps, weight decay): CompleteP 2505.01618 table 1 (eps of its unlisted rows: 2512.22382),
# Tensor Programs V 2203.03466 table 8; SGD: table 8, and m_L^(2α-1) of 2405.15712 table 1.
ADAM = {
    "sp": dict.fromkeys(("embedding.token", "hidden.query", "readout", "vector.gain"), (1, 1, 1, 1, 1)),
    "mup": {
        "embedding.token": (1, 1, 1, 1 / 4, 1),
        "embedding.position": (1, 1, 1, 1 / 4, 1),
        "hidden.query": (1 / 2, 1, 1 / 4, 1 / 4, 4),
        "readout": (1, 1 / 4, 1, 1 / 4, 1),
        "vector.gain": (1, 1, 1, 1 / 4, 1),
        "vector.outer": (1, 1, 1, 1 / 4, 1),
    },
    "completep": {
        "embedding.token": (1, 1, 1, 1 / 4, 1),
        "hidden.down": (1 / 2, 1, 1 / 4, 1 / 8, 4),
        "hidden.outer": (1 / 2, 1, 1 / 4, 1 / 4, 4),
        "hidden.expert.up": (1 / 2, 1, 1 / 4, 1 / 8, 4),  # experts: 2601.20205 table 1
        "hidden.expert.down": (1 / 2, 1, 1 / 4, 1 / 8, 4),
        "readout": (1, 1 / 4, 1, 1 / 4, 1),
        "vector.bias": (1, 1, 1, 1 / 8, 1),
        "vector.outer": (1, 1, 1, 1 / 4, 1),
    },
    "depth_mup": {
        "embedding.token": (1, 1, 1, 1 / 4, 1),
        "hidden.up": (1 / 2, 1, HALF / 4, HALF / 4, 4),
        "hidden.outer": (1 / 2, 1, 1 / 4, 1 / 4, 4),
        "readout": (1, 1 / 4, 1, 1 / 4, 1),
        "vector.gain": (1, 1, HALF, HALF / 4, 1),
        "vector.outer": (1, 1, 1, 1 / 4, 1),
    },
}
SGD = {
    "sp": ADAM["sp"],
    "mup": {
        "embedding.token": (1, 1, 4, 1, 1 / 4),
        "hidden.query": (1 / 2, 1, 1, 1, 1),
        "readout": (1, 1 / 4, 4, 1, 1 / 4),
        "vector.gain": (1, 1, 4, 1, 1 / 4),
        "vector.outer": (1, 1, 4, 1, 1 / 4),
    },
    "completep": {
        "embedding.token": (1, 1, 4, 1, 1 / 4),
        "hidden.query": (1 / 2, 1, 2, 1, 1 / 2),
        "hidden.outer": (1 / 2, 1, 1, 1, 1),
        "readout": (1, 1 / 4, 4, 1, 1 / 4),
        "vector.gain": (1, 1, 8, 1, 1 / 8),
        "vector.outer": (1, 1, 4, 1, 1 / 4),
    },
    "depth_mup": {
        "hidden.query": (1 / 2, 1, 1, 1, 1),
        "vector.gain": (1, 1, 4, 1, 1 / 4),
        "readout": (1, 1 / 4, 4, 1, 1 / 4),
    },
}
CASES = [
    (family, name, role, expected)
    for family, table in (("adam", ADAM), ("sgd", SGD))
    for name, rows in table.items()
    for role, expected in rows.items()
]


def numbers(name: str, family: str, role: str, ratios: Ratios, alpha: float | None = None) -> list[float]:
    row, alpha = rule(name, family, role), SCHEMES[name].alpha[1] if alpha is None else alpha
    return [cell(ratios, alpha) for cell in (row.init, row.multiplier, row.lr, row.eps, row.weight_decay)]


@pytest.mark.parametrize(("family", "name", "role", "expected"), CASES)
def test_rows(family: str, name: str, role: str, expected: tuple[float, ...]) -> None:
    actual = numbers(name, family, role, RATIOS[role.split(".")[0]])
    if family == "sgd":
        actual[3] = 1
    assert actual == pytest.approx(expected, rel=1e-15)


def test_completep_at_half() -> None:
    """Section by section what α = 1/2 changes: lr and eps inside of branches, nothing outside."""
    hidden = numbers("completep", "adam", "hidden.key", RATIOS["hidden"], 0.5)
    assert hidden == pytest.approx([0.5, 1, 0.17677670, 0.17677670, 4], rel=1e-7)
    vector = numbers("completep", "adam", "vector.bias", RATIOS["vector"], 0.5)
    assert vector == pytest.approx([1, 1, 0.70710678, 0.17677670, 1], rel=1e-7)
    assert SCHEMES["completep"].residual(Ratios(depth=2), 0.5) == pytest.approx(0.70710678, rel=1e-8)
    assert numbers("completep", "adam", "readout", RATIOS["readout"], 0.5) == [1, 0.25, 1, 0.25, 1]


def test_residual_branches() -> None:
    at = {name: SCHEMES[name].residual(Ratios(depth=2), SCHEMES[name].alpha[1]) for name in ADAM}
    assert at == {"sp": 1, "mup": 1, "completep": 0.5, "depth_mup": pytest.approx(HALF, rel=1e-15)}


def test_completedp() -> None:
    """Batch twice, tokens four times the base's. Complete(d)P 2512.22382 table 1, the readout in multiplier form."""
    shrunk, grown = math.sqrt(1 / 2), math.sqrt(2)
    ratios = {role: Ratios(r.fan_in, r.fan_out, 2, 2, 4) for role, r in RATIOS.items()}
    expected = {
        "embedding.token": (1, 1, shrunk, grown / 4, shrunk),
        "hidden.up": (1 / 2, 1, shrunk / 4, grown / 8, 4 * shrunk),
        "vector.gain": (1, 1, shrunk, grown / 8, shrunk),
        "vector.qk_gain": (1, 1, shrunk, grown / 2, shrunk),
        "vector.outer": (1, 1, shrunk, grown, shrunk),
        "readout": (1, 1 / 4, shrunk, grown / 4, shrunk),
    }
    for role, row in expected.items():
        actual = numbers("completedp", "adam", role, ratios[role.split(".")[0]])
        assert actual == pytest.approx(row, rel=1e-14), role
        assert rule("completedp", "adam", role).betas(ratios["hidden"]) == pytest.approx(0.5, rel=1e-15)
    lr, decay = expected["hidden.up"][2], expected["hidden.up"][4]
    assert lr * decay * 2 == pytest.approx(1)  # lr · λ · steps stays


def test_completedp_where_it_prints_another_form() -> None:
    """Its readout is absorbed: init and lr times θ, eps and weight decay over θ, at θ = 1/m_in = 1/4 (abc symmetry)."""
    std, multiplier, lr, eps, decay = numbers("completedp", "adam", "readout", Ratios(4, 1, 2, 2, 4))
    theta = multiplier
    assert [std * theta, lr * theta, eps / theta, decay / theta] == pytest.approx(
        [0.25, 0.17677670, 1.41421356, 2.82842712], rel=1e-7
    )


def test_a_spectral_update_has_the_norm_that_the_condition_asks_for() -> None:
    """2310.17813, condition 1: sqrt(fan_out / fan_in) for hidden matrices, at every depth; eps as Qiu et al."""
    ratios = Ratios(fan_in=4, fan_out=8, depth=2, absolute=Ratios(fan_in=64, fan_out=256, depth=4))
    assert numbers("spectral", "muon", "hidden.up", ratios) == pytest.approx([1 / 2, 1, 2, (4 / 8) ** 0.5 / 2, 1])
    assert numbers("spectral", "muon", "hidden.outer", ratios) == pytest.approx([1 / 2, 1, 2, (4 / 8) ** 0.5, 1])
    assert rule("spectral", "muon", "hidden.up").optimizer is None
    for role in ("embedding.token", "readout", "vector.gain", "vector.outer"):
        row = rule("spectral", "muon", role)
        assert row.optimizer == "adamw"
        assert replace(row, optimizer=None) == rule("completep", "adam", role)


BASED = [name for name, scheme in SCHEMES.items() if scheme.needs]
EVERY_RULE = [(name, family, role) for name in BASED for family, rows in SCHEMES[name].rules.items() for role in rows]


@pytest.mark.parametrize(("name", "family", "role"), EVERY_RULE)
def test_every_cell_is_one_at_the_base(name: str, family: str, role: str) -> None:
    row = rule(name, family, role)
    for cell in (row.init, row.multiplier, row.lr, row.eps, row.weight_decay, row.betas):
        if not cell.absolute:
            assert cell(Ratios(), SCHEMES[name].alpha[0]) == cell(Ratios(), SCHEMES[name].alpha[1]) == 1.0


@pytest.mark.parametrize("family", ["adam", "sgd"])
@pytest.mark.parametrize("name", list(SCHEMES))
def test_every_kind_of_tensor_has_a_rule_or_the_pair_is_refused(name: str, family: str) -> None:
    for kind in ("embedding.token", "hidden.query", "hidden.outer", "readout", "vector.gain", "vector.outer"):
        if family in SCHEMES[name].rules:
            rule(name, family, kind)
        else:
            with pytest.raises(UserError, match=f"^parametrization.name: {name} has no rules for optimizer family"):
                rule(name, family, kind)


def test_a_wider_and_deeper_tensor_by_its_own_fans() -> None:
    """An up-projection whose ffn_ratio grew too: fan-in 4 times, fan-out 8 times."""
    ratios = Ratios(fan_in=4, fan_out=8, depth=1)
    assert numbers("mup", "adam", "hidden.up", ratios) == [0.5, 1, 1 / 4, 1 / 8, 4]
    assert numbers("mup", "sgd", "hidden.up", ratios)[2] == 2


def test_routed_experts() -> None:
    """Jiang et al. 2601.20205 table 1: width 4 times, depth 2 times, experts' hidden layer 8 times (α_ffn twice)."""
    experts_stay = Ratios(fan_in=4, fan_out=1, depth=2)
    assert numbers("completep", "adam", "hidden.router", experts_stay) == [1 / 4, 1, 1 / 4, 1 / 2, 4]
    assert numbers("mup", "adam", "hidden.router", experts_stay) == [1 / 4, 1, 1 / 4, 1, 4]
    assert numbers("mup", "sgd", "hidden.router", experts_stay)[:3] == [1 / 4, 1, 1 / 4]
    up, down = Ratios(fan_in=4, fan_out=8, depth=2), Ratios(fan_in=8, fan_out=4, depth=2)
    assert numbers("completep", "adam", "hidden.expert.up", up) == [1 / 2, 1, 1 / 4, 1 / 16, 4]
    assert numbers("completep", "adam", "hidden.expert.down", down) == [1 / 2 * 1 / 2, 1, 1 / 8, 1 / 8, 8]
    assert numbers("mup", "adam", "hidden.expert.down", down)[0] == pytest.approx(8**-0.5)


def decay(name: str, family: str, role: str, ratios: Ratios, **options: str) -> float:
    row, alpha = rule(name, family, role, Options(**options)), SCHEMES[name].alpha[1]
    return row.weight_decay(ratios, alpha)


def test_weight_decay_rules() -> None:
    """Coupled weight decay of hidden matrices, whose lr goes as 1 / m_in: m_in, sqrt(m_in), 1."""
    for name in ("mup", "completep", "depth_mup"):
        rules = {"independent": 4, "sqrt": 2, "unscaled": 1}
        found = {one: decay(name, "adam", "hidden.up", RATIOS["hidden"], weight_decay=one) for one in rules}
        assert found == pytest.approx(rules)
        assert decay(name, "adam", "hidden.up", RATIOS["hidden"]) == 4  # the papers' own
        for role in ("embedding.token", "readout", "vector.gain"):  # lr does not depend on width
            assert decay(name, "adam", role, RATIOS[role.split(".")[0]], weight_decay="sqrt") == 1
    sizes = Ratios(fan_in=16, fan_out=64)
    muon = rule("spectral", "muon", "hidden.up", Options(weight_decay="independent"))
    assert muon.lr(Ratios(absolute=sizes)) * muon.weight_decay(Ratios(absolute=sizes)) == 1
    assert rule("spectral", "muon", "hidden.up").weight_decay == Power()


def test_weight_decay_over_batch_and_tokens_stays_the_schemes() -> None:
    ratios = Ratios(fan_in=4, fan_out=4, depth=2, batch=2, tokens=4)
    assert decay("completedp", "adam", "hidden.up", ratios, weight_decay="unscaled") == pytest.approx(math.sqrt(0.5))
    assert decay("completedp", "adam", "hidden.up", ratios, weight_decay="sqrt") == pytest.approx(2 * math.sqrt(0.5))


def test_embedding_lr() -> None:
    sqrt, constant = Options(embedding_lr="inverse_sqrt"), Options(embedding_lr="constant")
    own = rule("completep", "adam", "embedding.token")
    assert rule("completep", "adam", "embedding.token", constant) == own
    row = rule("completep", "adam", "embedding.token", sqrt)
    assert row.lr(RATIOS["embedding"]) == 1 / 2
    assert row.lr(RATIOS["embedding"]) * row.weight_decay(RATIOS["embedding"]) == 1
    assert rule("completep", "adam", "hidden.up", sqrt) == rule("completep", "adam", "hidden.up")
    assert rule("spectral", "muon", "embedding.token", sqrt).lr(RATIOS["embedding"]) == 1 / 2
    assert rule("umup", "adam", "embedding.token", sqrt) == rule("umup", "adam", "embedding.token")
    assert rule("umup", "adam", "embedding.token", constant).lr == Power(absolute=True)
    with pytest.raises(UserError, match=r"^parametrization\.embedding_lr: its sources know of Adam alone, not of sgd$"):
        rule("mup", "sgd", "embedding.token", sqrt)


def test_options_are_printed_with_their_sources() -> None:
    printed = to_markdown("completep", options=Options("sqrt", "inverse_sqrt"))
    assert "| hidden | m_in^(-1/2) | 1 | m_in^-1 · m_L^(α-1) | m_out^-1 · m_L^-α | m_in^(1/2) |" in printed
    assert "| embedding | 1 | 1 | m_out^(-1/2) | m_out^-1 | m_out^(1/4) |" in printed
    assert "2510.15262" in printed
    assert "2506.15025" in printed
    assert to_markdown("completep", options=Options()) == to_markdown("completep")
    mups = to_markdown("mup", options=Options(scale_eps=False, decay_vectors=True))
    assert "| hidden | m_in^(-1/2) | 1 | m_in^-1 | 1 | m_in |" in mups
    assert "| vector | constant | 1 | 1 | 1 | 1 |" in mups
    assert "one eps for all tensors, as mup" in mups


@pytest.mark.parametrize("name", ["depth_mup", "completedp", "umup", "spectral"])
@pytest.mark.parametrize("role", ["hidden.router", "hidden.expert.up"])
def test_what_no_source_covers_is_refused_by_name(name: str, role: str) -> None:
    family = next(iter(SCHEMES[name].rules))
    with pytest.raises(UserError, match=rf"^parametrization\.name: {name} does not cover the role '{role}': .*allowed"):
        rule(name, family, role)
    rule(name, family, "hidden.up")


def test_unknown_names() -> None:
    with pytest.raises(UserError, match=r"'mupp'; allowed: .*; did you mean 'mup'\?$"):
        rule("mupp", "adam", "hidden")
    with pytest.raises(UserError, match="mup has no rule for the role 'router' under adam"):
        rule("mup", "adam", "router")


def test_the_longest_prefix_wins() -> None:
    table = {"hidden": 1, "hidden.query": 2, "hidden.query.first": 3}
    assert [most_specific(table, role) for role in ("hidden.key", "hidden.query", "hidden.query.first.x", "hid")] == [
        1,
        2,
        3,
        None,
    ]


@pytest.mark.parametrize("name", ["sp", *BASED])
@pytest.mark.parametrize("head_dim", [1, 2, 3, 8, 24, 64, 96, 128])
def test_attention_is_one_over_sqrt_to_the_last_bit_at_the_base(name: str, head_dim: int) -> None:
    assert attention_scale(name, head_dim, head_dim) == 1 / math.sqrt(head_dim)


@given(st.integers(1, 256), st.integers(1, 256))
def test_attention_away_from_the_base(head_dim: int, base: int) -> None:
    assert attention_scale("mup", head_dim, base) == pytest.approx(math.sqrt(base) / head_dim, rel=1e-15)
    assert attention_scale("sp", head_dim, base) == pytest.approx(1 / math.sqrt(head_dim), rel=1e-15)


exponents = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0])
powers = st.builds(Power, exponents, exponents, exponents, exponents, exponents, exponents)
sizes = st.floats(0.1, 50)
ratios_of_anything = st.builds(Ratios, sizes, sizes, sizes, sizes, sizes)


@given(powers, powers, ratios_of_anything, st.floats(0, 1))
def test_a_product_of_powers_is_the_power_of_the_product(a: Power, b: Power, ratios: Ratios, alpha: float) -> None:
    assert (a * b)(ratios, alpha) == pytest.approx(a(ratios, alpha) * b(ratios, alpha))


def evaluated(cell: str, ratios: Ratios, alpha: float) -> float:
    """A printed cell as a number."""
    absolute = ratios.absolute or Ratios()
    names = {
        "m_in": ratios.fan_in,
        "m_out": ratios.fan_out,
        "m_L": ratios.depth,
        "m_B": ratios.batch,
        "m_D": ratios.tokens,
        "fan_in": absolute.fan_in,
        "fan_out": absolute.fan_out,
        "L": absolute.depth,
        "α": alpha,
    }
    python = re.sub(r"(\d)α", r"\1*α", cell).replace("·", "*").replace("^", "**")
    return float(eval(python, {"__builtins__": {}}, names))


@given(powers, ratios_of_anything, st.sampled_from([0.5, 1.0]))
def test_a_power_is_printed_as_what_it_is(power: Power, ratios: Ratios, alpha: float) -> None:
    assert evaluated(str(power), ratios, alpha) == pytest.approx(power(ratios, alpha))


@pytest.mark.parametrize("name", list(SCHEMES))
def test_the_printed_table_is_the_table(name: str) -> None:
    sizes = Ratios(3, 5, 7)
    ratios = Ratios(2, 3, 5, 7, 11, absolute=sizes)
    for family, rows in SCHEMES[name].rules.items():
        lines = [line.strip("| ").split(" | ") for line in to_markdown(name, family).splitlines() if line[:1] == "|"]
        head, body = lines[0], {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}
        assert set(body) == set(rows)
        for role, row in rows.items():
            cells = {"init std": row.init, "forward multiplier": row.multiplier, "lr": row.lr, "eps": row.eps}
            cells |= {"weight decay": row.weight_decay} | ({"1 - beta": row.betas} if "1 - beta" in head else {})
            for column, power in cells.items():
                if body[role][column] not in ("constant", "-", "0 †"):
                    assert evaluated(body[role][column], ratios, 0.5) == pytest.approx(power(ratios, 0.5)), (
                        role,
                        column,
                    )


def test_completep_as_printed() -> None:
    lines = to_markdown("completep", "adamw").splitlines()
    assert "| hidden | m_in^(-1/2) | 1 | m_in^-1 · m_L^(α-1) | m_out^-1 · m_L^-α | m_in |" in lines
    assert "| readout | 1 | m_in^-1 | 1 | m_in^-1 | 1 |" in lines
    assert "arXiv:2505.01618" in lines[-1]


def test_every_optimizer_can_be_asked_for_by_its_own_name() -> None:
    for optimizer, family in FAMILIES.items():
        for name, scheme in SCHEMES.items():
            if family in scheme.rules:
                assert to_markdown(name, optimizer) == to_markdown(name, family)
    with pytest.raises(UserError, match=r"completep has no rules for optimizer family 'adamx'"):
        to_markdown("completep", "adamx")

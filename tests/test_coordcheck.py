"""The coordinate check: its arithmetic against hand-computed slopes, its verdicts against faults put in on purpose."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hptransfer.config import RunConfig
from hptransfer.coordcheck import check, to_text
from hptransfer.coordcheck.checking import Check, Ladder
from hptransfer.coordcheck.diagnosis import diagnose
from hptransfer.coordcheck.measuring import measure
from hptransfer.coordcheck.page import write_page
from hptransfer.coordcheck.promises import MARGIN, Terms, claims, fit_slope, judge
from hptransfer.coordcheck.sizes import at_size, default_widths
from hptransfer.data import open_data
from hptransfer.errors import UserError
from hptransfer.observing import observe, pattern, rms
from hptransfer.plan import Plan, TensorPlan
from hptransfer.scaling import build, resolve
from models.gpt import rope_tables

SIZES = (32, 64, 128, 256)
GPT = {"name": "gpt", "width": 32, "depth": 2, "head_dim": 16}
MLP = {"name": "mlp", "width": 32, "depth": 2}
TERMS = Terms(scheme="completep", alpha=1.0, head=0.0, normalised=True, eps={"hidden.up": -1.0, "readout": -1.0})


def config(model=GPT, scheme="completep", **sections) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": model,
            "parametrization": {"name": scheme, "base_width": 32, "base_depth": 2, "init_std": 0.1},
            "optimizer": {"name": "adamw", "lr": 0.016},
            "data": {"source": "text", "path": str(Path(asyncio.__file__).parent / "*.py"), "seq_len": 64},
            "train": {"tokens": 100_000, "batch_tokens": 512},
        }
        | sections
    )


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("coordcheck")


# --- slopes and verdicts ---


@given(
    sizes=st.lists(st.integers(2, 10_000), min_size=3, max_size=8, unique=True),
    exponent=st.floats(-3, 3),
    intercepts=st.lists(st.floats(-20, 20), min_size=1, max_size=5),
)
def test_a_power_law_is_found_exactly_whatever_the_level_of_each_seed(sizes, exponent, intercepts):
    values = np.array([[level + exponent * np.log(size) for size in sizes] for level in intercepts])
    slope = fit_slope(sizes, values)
    assert slope.value == pytest.approx(exponent, abs=1e-6)
    assert slope.error == pytest.approx(0, abs=1e-5)


def test_standard_error_by_hand():
    """x = 0, 1, 2 and y = 0, 1, 3: slope 3/2, squared residuals 1/6 with one degree of freedom, over sum x^2 = 2."""
    slope = fit_slope(np.exp([0.0, 1.0, 2.0]), np.array([[0.0, 1.0, 3.0]]))
    assert (slope.value, slope.error) == pytest.approx((1.5, (1 / 12) ** 0.5))


def power_law(exponent: float, noise: float = 0.0) -> np.ndarray:
    """rms of three seeds over SIZES; noise up and down in turn, so that it does not tilt the mean."""
    wobble = noise * np.array([[1, -1, -1, 1], [-1, 1, 1, -1], [1, -1, -1, 1]])
    return np.exp(exponent * np.log(SIZES) + wobble)


def verdict(axis, quantity, name, exponent, noise=0.0, terms=TERMS):
    return judge(axis, quantity, name, SIZES, power_law(exponent, noise), terms)


@pytest.mark.parametrize(
    ("axis", "quantity", "name", "promised"),
    [
        ("width", "init", "blocks.*.up", (0, 0)),
        ("width", "init", "logits", (-0.5, -0.5)),
        ("width", "change", "logits", (0, 0)),
        ("width", "gradient", "hidden.up", (-1, -1)),
        ("width", "gradient", "readout", (-1, -1)),
        ("depth", "init", "blocks.added by a block", (-1, -1)),
        ("depth", "init", "blocks.stream out", (-0.5, 0)),
        ("depth", "change", "blocks.*.up", (0, 0)),
        ("depth", "change", "blocks.added by a block", (-1, -1)),
        ("depth", "change", "logits", (0, 0)),
    ],
)
def test_what_completep_promises(axis, quantity, name, promised):
    inside, outside = verdict(axis, quantity, name, promised[0]), verdict(axis, quantity, name, promised[1] + 0.4)
    assert (inside.low, inside.high) == promised
    assert (inside.outcome, inside.deviation) == ("PASS", pytest.approx(0, abs=1e-9))
    assert (outside.outcome, outside.deviation) == ("FAIL", pytest.approx(0.4))


def test_depth_mup_may_learn_less_in_each_block_and_its_branches_shrink_by_the_root():
    terms = replace(TERMS, scheme="depth_mup", alpha=0.5)
    assert (verdict("depth", "init", "blocks.added by a block", -0.5, terms=terms).outcome) == "PASS"
    lazy = verdict("depth", "change", "blocks.*.up", -0.5, terms=terms)
    assert (lazy.low, lazy.high, lazy.outcome) == (-0.5, 0.0, "PASS")


def test_growing_heads_shrink_the_attention_logits_at_first():
    terms = replace(TERMS, head=1.0)
    assert verdict("width", "init", "blocks.*.attention.attention logits", -0.5, terms=terms).outcome == "PASS"
    assert verdict("width", "init", "blocks.*.attention.attention logits", 0.0, terms=terms).outcome == "FAIL"


def test_beyond_the_margin_but_within_the_errors_is_unsure():
    assert verdict("width", "init", "norm", MARGIN + 0.02).outcome == "FAIL"
    noisy = verdict("width", "init", "norm", MARGIN + 0.02, noise=0.3)
    assert noisy.slope.value == pytest.approx(MARGIN + 0.02)
    assert noisy.outcome == "unsure"
    assert verdict("width", "init", "norm", MARGIN - 0.02, noise=0.3).outcome == "PASS"


def test_zeros_have_no_verdict_and_what_is_not_finite_fails():
    zero = judge("width", "init", "logits", SIZES, np.zeros((3, 4)), TERMS)
    assert (zero.slope, zero.outcome, zero.deviation) == (None, "zero", 0.0)
    values = power_law(0.0)
    values[1, 3] = np.nan
    lost = judge("width", "change", "logits", SIZES, values, TERMS)
    assert (lost.slope, lost.outcome) == (None, "FAIL")
    assert "not finite" in diagnose([lost], TERMS)[0]


def test_mup_claims_width_alone_and_sp_is_held_to_both():
    claimed = {(name, axis): claims(name, axis) for name in ("sp", "mup", "completep") for axis in ("width", "depth")}
    assert [key for key, value in claimed.items() if not value] == [("mup", "depth")]
    terms = replace(TERMS, scheme="mup")
    assert verdict("depth", "change", "logits", 1.0, terms=terms).outcome == "not claimed"
    assert verdict("width", "change", "logits", 1.0, terms=terms).outcome == "FAIL"


def test_gradients_of_an_unscaled_eps_are_promised_nothing():
    assert verdict("width", "gradient", "vector.gain", -1.0).outcome == "not claimed"


# --- diagnosis ---


def test_the_first_level_with_a_fault_is_named_and_what_follows_from_it_is_not():
    init = verdict("width", "init", "blocks.*.query_norm", 0.5)
    change = verdict("width", "change", "blocks.*.up", 1.0)
    logits = verdict("width", "change", "logits", 1.0)
    assert [line.split(":")[0] for line in diagnose([init, change, logits], TERMS)] == ["blocks.*.query_norm"]
    assert "lr of hidden matrices is missing" in diagnose([change, logits], TERMS)[0]
    assert len(diagnose([change, logits], TERMS)) == 1
    assert "lr of the readout" in diagnose([logits], TERMS)[0]


def test_a_factor_that_is_neither_missing_nor_doubled_is_quoted():
    half = verdict("depth", "init", "blocks.added by a block", -0.5)
    assert "residual branches is wrong by depth^+0.50" in diagnose([half], TERMS)[0]


def test_what_is_missing_depends_on_the_residual_exponent():
    terms = replace(TERMS, scheme="depth_mup", alpha=0.5)
    flat = verdict("depth", "init", "blocks.added by a block", 0.0, terms=terms)
    assert "residual branches is missing" in diagnose([flat], terms)[0]
    grows = verdict("depth", "change", "blocks.stream out", 0.5)
    assert "lr inside residual branches moves with depth and should not" in diagnose([grows], TERMS)[0]
    grows = verdict("depth", "change", "blocks.stream out", 0.5, terms=terms)
    assert "lr inside residual branches is missing" in diagnose([grows], terms)[0]


def test_passes_need_no_diagnosis():
    assert diagnose([verdict("width", "init", "logits", -0.5)], TERMS) == []


def test_an_eps_as_its_paper_prints_it_is_said_and_is_no_fault():
    """Complete(d)P's table leaves eps of the final norm, whose gradient goes as 1/m_out."""
    terms = replace(TERMS, scheme="completedp", eps={"vector.outer": 0.0, "readout": -1.0})
    printed = verdict("width", "gradient", "vector.outer", -1.0, terms=terms)
    assert printed.outcome == "as printed"
    assert "Complete(d)P's table 1" in printed.source
    assert verdict("width", "gradient", "vector.outer", -2.0, terms=terms).outcome == "FAIL"
    assert verdict("width", "gradient", "vector.outer", 0.0, terms=terms).outcome == "PASS"
    assert verdict("width", "gradient", "readout", -2.0, terms=terms).outcome == "FAIL"
    ladder = Ladder("width", SIZES, True, {}, (printed,), ())
    found = Check("completedp", 0.016, 10, 3, (ladder,))
    assert found.passed
    assert "vector.outer: Complete(d)P's table 1 leaves eps" in to_text(found)


# --- measuring ---


def test_names_are_grouped_over_blocks():
    assert pattern("blocks.11.attention.norm") == "blocks.*.attention.norm"
    assert pattern("blocks.3") == "blocks.*"
    assert pattern("h2.norm1") == "h2.norm1"


def test_rms_of_several_tensors():
    assert rms([torch.tensor([3.0]), torch.tensor([[1.0, 1.0], [1.0, 2.0]])]) == pytest.approx((16 / 5) ** 0.5)


def test_what_is_seen_in_a_gpt(runs):
    plan = resolve(config())
    model, inputs = build(plan), torch.arange(32).reshape(2, 16)
    seen = observe(model, inputs)
    assert list(seen) == [
        "blocks.stream in",
        *(f"blocks.*.attention.{part}" for part in ("norm", "query_norm", "key_norm", "attention logits")),
        "blocks.*.attention.attention_output",
        *(f"blocks.*.feed_forward.{part}" for part in ("norm", "up", "down")),
        "blocks.added by a block",
        "blocks.stream out",
        "norm",
        "logits",
    ]
    with torch.no_grad():
        stream = model.token_embedding(inputs) * model.input_multiplier
        after = [stream]
        rotation = rope_tables(16, 16, inputs.device)
        for block in model.blocks:
            after.append(block(after[-1], rotation))
        assert torch.equal(seen["blocks.stream in"][0], stream)
        assert torch.equal(seen["blocks.stream out"][0], after[-1])
        for added, new, old in zip(seen["blocks.added by a block"], after[1:], after[:-1], strict=True):
            assert torch.equal(added, new - old)
        assert torch.equal(seen["logits"][0], model(inputs))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_attention_logits_are_products_of_causal_pairs(runs):
    """Without positions in the queries (learned ones are in the stream), they are what the norms' hooks see."""
    plan = resolve(config(GPT | {"positions": "learned"}))
    seen = observe(build(plan), torch.arange(6).reshape(1, 6))
    query, key = (seen[f"blocks.*.attention.{part}"][0][0] for part in ("query_norm", "key_norm"))
    pairs = [
        float(query[i, head] @ key[j, head]) * plan.multipliers.attention
        for head in range(2)
        for i in range(6)
        for j in range(i + 1)
    ]
    found = seen["blocks.*.attention.attention logits"][0].flatten().tolist()
    assert found == pytest.approx(pairs, abs=1e-5)


def test_a_model_without_attention_has_its_stream_measured_too():
    seen = observe(build(resolve(config(MLP))), torch.arange(32).reshape(2, 16))
    assert len(seen["blocks.added by a block"]) == 2
    assert {"token_embedding", "window_projection", "blocks.*.up", "blocks.stream in", "blocks.stream out"} < set(seen)


def test_what_a_run_of_two_steps_leaves(runs):
    plan = resolve(config(MLP))
    data = open_data(plan.config.data, runs)
    by = {(one.quantity, one.name, one.step): one.rms for one in measure(plan, data, steps=2, tokens=256)}
    assert {step for quantity, _, step in by if quantity == "activation"} == {0, 1, 2}
    assert {step for quantity, _, step in by if quantity == "change"} == {1, 2}
    assert {name for quantity, name, _ in by if quantity == "gradient"} == {tensor.role for tensor in plan.tensors}
    assert by["activation", "norm", 0] == pytest.approx(1, abs=1e-3)

    model = build(plan)
    inputs, targets = (torch.from_numpy(array) for array in data.batch(0, 0, 4))
    torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
    assert by["gradient", "readout", 0] == pytest.approx(float(model.readout.weight.grad.square().mean().sqrt()))
    ups = torch.cat([block.up.weight.grad for block in model.blocks])
    assert by["gradient", "hidden.up", 0] == pytest.approx(float(ups.square().mean().sqrt()))


# --- sizes ---


def test_default_widths_hold_whole_heads():
    assert default_widths(resolve(config()).config) == (64, 128, 256, 512)
    grouped = GPT | {"width": 96, "head_dim": 16, "kv_heads": 2}
    parametrization = {"name": "completep", "base_width": 96, "base_depth": 2}
    sizes = default_widths(resolve(config(grouped, parametrization=parametrization)).config)
    assert sizes == (96, 192, 384, 768)
    fixed = {"name": "gpt", "width": 32, "depth": 2, "heads": 2}
    assert default_widths(resolve(config(fixed)).config) == (64, 128, 256, 512)


def test_a_fixed_number_of_key_heads_stays():
    """Where the config's own is that of the base: widths are whole numbers of groups, of any size."""
    base = {"name": "completep", "base_width": 32, "base_depth": 2, "base_kv_heads": 2}
    fixed = resolve(config(GPT | {"width": 64, "kv_heads": 2}, parametrization=base)).config
    assert default_widths(fixed) == (64, 128, 256, 512)
    wide = at_size(fixed, "width", 256, seed=3)
    assert (wide.shape.heads, wide.shape.kv_heads, wide.base_shape.kv_heads) == (16, 2, 2)
    grown = resolve(config(GPT | {"width": 64, "kv_heads": 4}, parametrization=base)).config
    assert at_size(grown, "width", 256, seed=3).shape.kv_heads == 16


def test_gradients_of_key_heads_that_are_shared_by_more_and_more():
    """Of one key head for ever more query heads: eps stays (its fan-out does), the sum grows as they agree or not."""
    terms = replace(TERMS, eps={"hidden.key": 0.0, "hidden.value": 0.0}, group=1.0)
    for name in terms.eps:
        for exponent, outcome in ((-0.5, "PASS"), (0.0, "PASS"), (-1.0, "FAIL"), (0.5, "FAIL")):
            assert verdict("width", "gradient", name, exponent, terms=terms).outcome == outcome


def test_the_first_block_has_none_before_it():
    """A change that comes from the blocks before, (L-1)/2 of L in the mean: 1/2, 3/4, 7/8 of what many would give."""
    depths = (2, 4, 8)
    before = np.array([[1 - 1 / depth for depth in depths]])
    terms = replace(TERMS, before=fit_slope(depths, np.log(before)).value)
    found = judge("depth", "change", "blocks.*.norm", depths, np.repeat(before, 3, axis=0), terms)
    assert (found.low, found.outcome) == (0.0, "PASS")
    assert found.high == pytest.approx(found.slope.value)
    assert judge("depth", "change", "blocks.stream out", depths, before, terms).high == 0.0


def test_gradients_of_embeddings_over_depth_as_the_stream_out():
    for alpha, low in ((1.0, -0.5), (0.5, 0.0)):
        terms = replace(TERMS, alpha=alpha, eps={"embedding.position": 0.0})
        found = verdict("depth", "gradient", "embedding.position", -0.4, terms=terms)
        assert (found.low, found.high, found.outcome) == (low, 0.0, "PASS" if alpha == 1 else "FAIL")


def test_query_heads_per_key_head_stay():
    grouped = resolve(config(GPT | {"width": 64, "kv_heads": 2})).config
    wide = at_size(grouped, "width", 256, seed=3)
    assert (wide.shape.heads, wide.shape.kv_heads, wide.train.seed) == (16, 8, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (32, 64)}, "--width 32,64: a slope with an error needs three different sizes"),
        ({"widths": (32, 64, 72)}, "--width 72: .*head_dim.*allowed: multiples of 16"),
        ({"depths": (1, 2, 4)}, "--depth 1: sizes start at 2"),
        ({"steps": 0}, "--steps 0: at least 1"),
        ({"seeds": 0}, "--seeds 0: at least 1"),
        ({"widths": (), "depths": ()}, "nothing to check"),
    ],
)
def test_what_cannot_be_checked_is_refused(options, message, runs):
    with pytest.raises(UserError, match=message):
        check(config(), runs=runs, workers=1, **options)


# --- whole checks ---

PlanOf = Callable[[RunConfig], Plan]


def with_tensors(role: str, change: Callable[[TensorPlan, float], TensorPlan]) -> PlanOf:
    """The plan with the tensors of a role changed, given the ratio of widths."""

    def plan_of(config: RunConfig) -> Plan:
        plan, ratio = resolve(config), config.model.width / 32
        tensors = tuple(change(one, ratio) if one.role.startswith(role) else one for one in plan.tensors)
        return replace(plan, tensors=tensors)

    return plan_of


def with_multiplier(name: str, factor: Callable[[float, float], float]) -> PlanOf:
    """The plan with one multiplier times factor(ratio of widths, ratio of depths)."""

    def plan_of(config: RunConfig) -> Plan:
        plan = resolve(config)
        by = factor(config.model.width / 32, config.model.depth / 2)
        return replace(plan, multipliers=replace(plan.multipliers, **{name: getattr(plan.multipliers, name) * by}))

    return plan_of


WIDTH_FAULTS = {
    "readout dropped": (
        with_tensors("readout", lambda one, ratio: replace(one, multiplier=1.0)),
        "the readout's forward multiplier 1/m_in is missing",
    ),
    "readout twice": (
        with_tensors("readout", lambda one, ratio: replace(one, multiplier=one.multiplier**2)),
        "the readout's forward multiplier 1/m_in is applied twice",
    ),
    "hidden lr unscaled": (
        with_tensors("hidden", lambda one, ratio: replace(one, lr=one.lr * ratio)),
        "the factor 1/m_in on the lr of hidden matrices is missing",
    ),
    "hidden lr twice": (
        with_tensors("hidden", lambda one, ratio: replace(one, lr=one.lr / ratio)),
        "the factor 1/m_in on the lr of hidden matrices is applied twice",
    ),
    "hidden init unscaled": (
        with_tensors("hidden", lambda one, ratio: replace(one, init_std=one.init_std * ratio**0.5)),
        "the factor m_in^-1/2 on the initial standard deviation of hidden matrices is missing",
    ),
    "hidden init twice": (
        with_tensors("hidden", lambda one, ratio: replace(one, init_std=one.init_std * ratio**-0.5)),
        "the factor m_in^-1/2 on the initial standard deviation of hidden matrices is applied twice",
    ),
    "eps unscaled": (
        with_tensors("", lambda one, ratio: replace(one, eps=1e-8)),
        "the factor on eps does not follow the size of gradients",
    ),
}
DEPTH_FAULTS = {
    "residual dropped": (
        with_multiplier("residual", lambda width, depth: depth),
        "the factor m_L^-α on residual branches is missing",
    ),
    "residual twice": (
        with_multiplier("residual", lambda width, depth: 1 / depth),
        "the factor m_L^-α on residual branches is applied twice",
    ),
}


def over(axis: str, found: Check) -> Ladder:
    return next(ladder for ladder in found.ladders if ladder.axis == axis)


@pytest.fixture(scope="module")
def small(runs) -> Check:
    """A width check of a GPT in a few seconds."""
    return check(config(), widths=(32, 64, 128), depths=(), steps=4, seeds=2, runs=runs, workers=1)


def test_completep_passes_over_width(small):
    assert small.passed
    assert over("width", small).outcome == "PASS"


def test_routed_experts_pass_over_width(runs):
    moe = GPT | {"experts": 4, "experts_per_token": 2, "ffn_ratio": 1}
    found = check(config(moe), widths=(32, 64, 128), depths=(), steps=4, seeds=2, runs=runs, workers=1)
    assert found.passed, to_text(found)
    slopes = {(one.quantity, one.name): one for one in over("width", found).verdicts}
    router = slopes["init", "blocks.*.feed_forward.router"]
    assert (router.low, router.high, router.outcome) == (-0.5, -0.5, "PASS")
    assert slopes["change", "blocks.*.feed_forward.mixture"].outcome == "PASS"
    assert slopes["gradient", "hidden.expert.down"].outcome == "PASS"


@pytest.mark.parametrize("fault", ["readout dropped", "hidden lr unscaled"])
def test_a_fault_in_an_mlp_is_named(fault, runs):
    plan_of, name = WIDTH_FAULTS[fault]
    found = check(config(MLP), widths=(32, 64, 128), depths=(), steps=4, seeds=2, runs=runs, workers=1, plan_of=plan_of)
    assert not found.passed
    assert name in over("width", found).diagnoses[0]


def test_an_mlp_passes_over_depth(runs):
    found = check(config(MLP), widths=(), depths=(2, 4, 8), steps=4, seeds=2, runs=runs, workers=1)
    assert found.passed


def test_a_readout_that_starts_at_zero_is_no_fault(runs):
    parametrization = {"name": "mup", "base_width": 32, "base_depth": 2, "init_multipliers": {"readout": 0}}
    found = check(
        config(MLP, parametrization=parametrization),
        widths=(32, 64, 128),
        depths=(),
        steps=4,
        seeds=2,
        runs=runs,
        workers=1,
    )
    outcomes = {(one.quantity, one.name): one.outcome for one in over("width", found).verdicts}
    assert outcomes["init", "logits"] == "zero"
    assert outcomes["gradient", "hidden.up"] != "zero"
    assert found.passed


def test_one_key_head_at_every_width_passes(runs):
    base = {"name": "completep", "base_width": 32, "base_depth": 2, "init_std": 0.1, "base_kv_heads": 1}
    one = config(GPT | {"kv_heads": 1}, parametrization=base)
    found = check(one, widths=(32, 64, 128), depths=(), steps=4, seeds=2, runs=runs, workers=1)
    assert found.passed, to_text(found)
    promised = {one.name: (one.low, one.high) for one in over("width", found).verdicts if one.quantity == "gradient"}
    assert promised["hidden.value"] == pytest.approx((-0.5, 0))
    assert promised["hidden.query"] == pytest.approx((-1, -1))


def test_text_and_json_say_the_same(small):
    text, data = to_text(small), json.loads(json.dumps(small.to_dict(), allow_nan=False))
    assert "width: PASS" in text
    assert data["passed"] is True
    slopes = {(one["quantity"], one["name"]): one for one in data["ladders"][0]["slopes"]}
    logits = slopes["init", "logits"]
    assert logits["promise"] == [-0.5, -0.5]
    line = next(line for line in text.splitlines() if line.startswith("logits"))
    assert line.split()[1:5] == [f"{logits['slope']:+.2f}", "±", f"{logits['standard_error']:.2f}", "-0.5"]


def test_page_holds_all_it_shows_and_escapes_what_it_is_told(small, tmp_path):
    told = replace(small.ladders[0], diagnoses=("<script>alert(1)</script>",))
    page = write_page(replace(small, ladders=(told,)), tmp_path / "check.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == 3
    assert "Coordinate check: completep: PASS" in page
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r'(src|href)="(?!#)|https://|@import|url\((?!#)', page)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["completep", "depth_mup", "mup"])
def test_a_gpt_keeps_the_promises_of_its_scheme(scheme, runs):
    found = check(config(scheme=scheme), widths=(32, 64, 128), depths=(2, 4, 8), runs=runs, seeds=2, workers=1)
    text = to_text(found)
    assert found.passed, text
    assert ("mup promises nothing over depth" in text) == (scheme == "mup")
    assert [ladder.outcome for ladder in found.ladders] == ["PASS", "not claimed" if scheme == "mup" else "PASS"]


@pytest.mark.slow
def test_sp_fails_over_width_and_over_depth(runs):
    found = check(config(scheme="sp"), widths=(32, 64, 128), depths=(2, 4, 8), seeds=2, runs=runs, workers=1)
    assert [ladder.outcome for ladder in found.ladders] == ["FAIL", "FAIL"]
    assert "sp itself promises nothing" in to_text(found)


@pytest.mark.slow
@pytest.mark.parametrize("fault", WIDTH_FAULTS)
def test_a_fault_over_width_is_named(fault, runs):
    plan_of, name = WIDTH_FAULTS[fault]
    found = check(config(), widths=(32, 64, 128), depths=(), seeds=2, runs=runs, workers=1, plan_of=plan_of)
    assert len(over("width", found).diagnoses) == 1
    assert name in over("width", found).diagnoses[0]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["completep", "depth_mup"])
@pytest.mark.parametrize("fault", DEPTH_FAULTS)
def test_a_fault_over_depth_is_named(fault, scheme, runs):
    plan_of, name = DEPTH_FAULTS[fault]
    if scheme == "depth_mup":
        power = {"residual dropped": 0.5, "residual twice": -0.5}[fault]
        plan_of = with_multiplier("residual", lambda width, depth: depth**power)
    found = check(config(scheme=scheme), widths=(), depths=(2, 4, 8), seeds=2, runs=runs, workers=1, plan_of=plan_of)
    assert len(over("depth", found).diagnoses) == 1
    assert name in over("depth", found).diagnoses[0]


@pytest.mark.slow
def test_root_attention_with_growing_heads_is_named(runs):
    heads = {"name": "gpt", "width": 32, "depth": 2, "heads": 2}
    plan_of = with_multiplier("attention", lambda width, depth: width**0.5)
    options = {"widths": (32, 64, 128), "depths": (), "seeds": 2, "runs": runs, "workers": 1}
    assert check(config(heads), **options).passed
    found = check(config(heads), plan_of=plan_of, **options)
    assert len(over("width", found).diagnoses) == 1
    assert "1/head_dim on the attention logits" in over("width", found).diagnoses[0]


@pytest.mark.slow
def test_processes_measure_the_same(small, runs):
    told = []
    again = check(
        config(),
        widths=(32, 64, 128),
        depths=(),
        steps=4,
        seeds=2,
        runs=runs,
        workers=2,
        on_run=lambda done, total: told.append((done, total)),
    )
    assert again.to_dict() == small.to_dict()
    assert told == [(done, 6) for done in range(1, 7)]

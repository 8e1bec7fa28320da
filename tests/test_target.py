"""Laws + target -> tuned config: what moves, by which rule, and what is refused."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tiny import plain

from hptransfer.config import RunConfig
from hptransfer.errors import UserError
from hptransfer.laws import Laws, fit
from hptransfer.loading import parse_yaml
from hptransfer.records import recipe
from hptransfer.rows import Row
from hptransfer.scaling import resolve
from hptransfer.target import predict_at_base_of_runs, predict_for, size_of, size_of_config, transfer

LRS = [2.0**exponent for exponent in range(-9, -3)]
BEST = 2.0**-6
OWN = {
    "init_multipliers": {"hidden": 2.0, "readout": 0.0},
    "multipliers": {"residual": 0.7},
    "lr_multipliers": {"embedding": 4},
}


def target(**sections: dict[str, object]) -> RunConfig:
    return RunConfig.model_validate(plain(**{"model": {"width": 64, "depth": 8}, **sections}))


def rows(batches: Sequence[float] = (64.0,), **changes: object) -> list[Row]:
    """Two cells with the same optimum whatever the batch: an exact parabola in ln lr, steeper than any noise."""
    known = {**recipe(target(), "0123456789"), **changes}
    return [
        Row(
            params=12.0 * width**2 * depth,
            tokens=768.0,
            lr=lr,
            batch_tokens=batch,
            loss=2.0 + 0.1 * math.log(lr / BEST) ** 2 + 10 / width,
            weight_decay=0.1,
            lr_hidden=lr,
            weight_decay_hidden=0.1,
            width=width,
            depth=depth,
            recipe=known,
            source=f"{width}/{lr}/{batch}",
        )
        for width, depth in ((16, 2), (32, 4))
        for lr in LRS
        for batch in batches
    ]


@pytest.fixture(scope="module")
def laws() -> Laws:
    return fit(rows())


def test_the_optimum_stays_where_the_proxies_have_it(laws: Laws) -> None:
    tuned = transfer(laws, target())
    assert tuned.config.optimizer.lr == pytest.approx(BEST, rel=0.1)
    assert tuned.config.train.batch_tokens == 64
    assert tuned.config.optimizer.weight_decay == 0.1
    assert tuned.config.model == target().model


def test_the_yaml_reads_back_to_the_config_with_a_reason_behind_every_tuned_line(laws: Laws) -> None:
    tuned = transfer(laws, target())
    text = tuned.to_yaml()
    assert RunConfig.model_validate(parse_yaml(text, "tuned")) == tuned.config
    for path in tuned.moved:
        key = path.rpartition(".")[2]
        (line,) = [line for line in text.splitlines() if line.strip().startswith(f"{key}:")]
        assert tuned.reasons[path] in line


def test_beta2_and_eps_move_with_a_batch_outside_of_the_runs(laws: Laws) -> None:
    config = transfer(laws, target(), batch_tokens=256).config
    assert config.train.batch_tokens == 256
    assert config.optimizer.betas == (0.9, pytest.approx(0.95**4))
    assert config.optimizer.eps == pytest.approx(1e-8 / 2)


def test_inside_of_the_runs_batches_beta2_and_eps_stay() -> None:
    config = transfer(fit(rows(batches=(32.0, 64.0, 128.0, 256.0))), target(), batch_tokens=128).config
    assert (config.optimizer.betas, config.optimizer.eps) == ((0.9, 0.95), 1e-8)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("parametrization", {"name": "mup"}),
        ("optimizer", {"name": "sgd", "lr": 0.1}),
    ],
)
def test_laws_do_not_cross_what_gives_lr_another_meaning(laws: Laws, section: str, change: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(change)).replace("name", section)):
        transfer(laws, target(**{section: change}))


@pytest.mark.parametrize("scheme", ["completep", "mup", "depth_mup"])
@pytest.mark.parametrize("base", [{"base_width": 32}, {"base_depth": 4}, {"base_width": 64, "base_depth": 1}])
@pytest.mark.parametrize("own", [{}, OWN])
def test_a_target_at_another_base_keeps_its_model_and_takes_the_runs_unit(
    scheme: str, base: dict[str, int], own: dict[str, object]
) -> None:
    given = target(parametrization={"name": scheme, **base, **own})
    tuned = transfer(fit(rows(parametrization=scheme)), given)
    assert (tuned.config.parametrization.base_width, tuned.config.parametrization.base_depth) == (16, 2)
    at_runs = {"name": scheme, "base_width": 16, "base_depth": 2, **own}
    optimizer = {"lr": tuned.config.optimizer.lr, "weight_decay": tuned.config.optimizer.weight_decay}
    model, optimizers, found = (
        resolve(config) for config in (given, target(parametrization=at_runs, optimizer=optimizer), tuned.config)
    )
    assert found.multipliers.residual == pytest.approx(model.multipliers.residual)
    assert found.multipliers.attention == pytest.approx(model.multipliers.attention)
    for tensor, as_given, at_base in zip(found.tensors, model.tensors, optimizers.tensors, strict=True):
        assert tensor.init_std == pytest.approx(as_given.init_std)
        logits = found.multipliers.output * tensor.multiplier
        assert logits == pytest.approx(model.multipliers.output * as_given.multiplier) or tensor.role != "readout"
        assert (tensor.lr, tensor.weight_decay) == pytest.approx((at_base.lr, at_base.weight_decay))
    assert all(f"(the file had {base[key]})" in tuned.reasons[f"parametrization.{key}"] for key in base)
    assert RunConfig.model_validate(parse_yaml(tuned.to_yaml(), "tuned")) == tuned.config


def test_a_base_run_is_a_unit_too() -> None:
    """Under completedp all lrs go as the root of (base tokens / base batch): the applied ones are those of the runs."""
    scheme = {"name": "completedp", "base_width": 16, "base_depth": 2}
    at_runs = {**scheme, "base_tokens": 768, "base_batch_tokens": 64}
    runs = rows(parametrization="completedp", base_tokens=768, base_batch_tokens=64)
    other = target(parametrization={**at_runs, "base_tokens": 768 * 4})
    tuned = transfer(fit(runs), other)
    assert tuned.config == transfer(fit(runs), target(parametrization=at_runs)).config
    assert (
        tuned.reasons["parametrization.base_tokens"]
        == "as in the runs (the file had 3072): the unit of lr and weight_decay"
    )


def test_at_the_runs_own_base_nothing_is_rewritten(laws: Laws) -> None:
    assert not any(key.startswith("parametrization.") for key in transfer(laws, target()).moved)


def test_a_base_that_is_impossible_for_the_target_is_one_line() -> None:
    known = rows(base_width=12)
    with pytest.raises(UserError, match=r"not possible at the base of the runs: .*head_dim") as refused:
        transfer(fit(known), target())
    assert "\n" not in str(refused.value)


def test_weight_decay_that_the_runs_do_not_say_cannot_be_rebased() -> None:
    silent = fit([replace(row, weight_decay=None, weight_decay_hidden=None) for row in rows()])
    with pytest.raises(UserError, match=r"optimizer.weight_decay: 0.1 at this base has no single value"):
        transfer(silent, target(parametrization={"base_width": 32}))
    deeper = transfer(silent, target(parametrization={"base_depth": 4}))
    assert deeper.config.optimizer.weight_decay == 0.1


def test_a_prediction_for_a_config_at_another_base_says_whose_unit_it_speaks(laws: Laws) -> None:
    other = size_of_config(target(parametrization={"base_width": 32}))
    prediction = predict_at_base_of_runs(laws, other)
    assert prediction.lr == predict_for(laws, size_of_config(target())).lr
    assert "quoted at the runs' base_width 16" in prediction.warnings[0]
    with pytest.raises(UserError, match="base_width: the runs have 16, the target has 32"):
        predict_for(laws, other)


def test_other_differences_are_named_in_the_warnings_and_in_the_file(laws: Laws) -> None:
    tuned = transfer(laws, target(schedule={"name": "cosine"}, data={"seq_len": 32}))
    assert any("schedule" in warning for warning in tuned.warnings)
    assert any("seq_len" in warning for warning in tuned.warnings)
    assert all(warning in tuned.to_yaml() for warning in tuned.warnings)


def test_what_the_runs_do_not_say_is_named() -> None:
    known = {"parametrization": "completep", "base_width": 16, "base_depth": 2, "optimizer": "adamw"}
    told = transfer(fit([replace(row, recipe=known) for row in rows()]), target()).warnings
    assert (
        "the runs do not say their model, schedule, warmup, seq_len, data, precision: make sure that the target's are "
        "the same" in told
    )
    silent = fit([replace(row, recipe={}) for row in rows()])
    assert silent.warnings[0] == "the runs do not say their parametrization: their lr is taken for that of sp"
    with pytest.raises(UserError, match=r"the runs do not say one, .* that of sp; the target has completep"):
        transfer(silent, target())
    plain = transfer(silent, target(parametrization={"name": "sp"}, optimizer={"eps": 1e-8})).warnings
    assert any("do not say their model, optimizer, schedule" in warning for warning in plain)


def test_a_batch_is_whole_sequences(laws: Laws) -> None:
    batch = transfer(laws, target(), batch_tokens=70.0).config.train.batch_tokens
    assert batch == 64


@pytest.mark.parametrize(
    "given", [(None, None, None), ("x.yaml", 1e6, None), (None, 1e6, None), (None, -1e6, 1e7), (None, 1e6, 0.0)]
)
def test_a_size_is_a_config_or_params_and_tokens(given: tuple[str | None, float | None, float | None]) -> None:
    config, params, tokens = given
    with pytest.raises(UserError, match="give either"):
        size_of(config, [], params, tokens)


def test_a_diverged_sweep_says_so() -> None:
    gone = [replace(row, status="diverged", loss=math.nan) for row in rows()]
    with pytest.raises(UserError, match="nothing to fit"):
        fit(gone)

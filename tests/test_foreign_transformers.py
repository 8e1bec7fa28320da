"""Models of Hugging Face transformers, built from a config: nobody here wrote them, and they know nothing of us."""

import copy
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hptransfer
from hptransfer.config import RunConfig
from hptransfer.coordcheck import Check, to_text
from hptransfer.data import open_data
from hptransfer.errors import UserError
from hptransfer.foreign import Parametrized

sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]  # transformers imports it where it is installed
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="pip install 'hptransfer[hf]'")

HEAD, VOCABULARY, CONTEXT = 16, 256, 16


def gpt2(width: int, depth: int) -> nn.Module:
    heads = {"n_embd": width, "n_layer": depth, "n_head": width // HEAD, "bos_token_id": 0, "eos_token_id": 0}
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, **heads, **quiet)
    )


def llama(width: int, depth: int, heads: int | None = None, key_heads: int | None = None) -> nn.Module:
    heads = heads or width // HEAD
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=CONTEXT,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            num_key_value_heads=key_heads or heads,
        )
    )


MODELS = {"gpt2": gpt2, "llama": llama}
each_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)


def sized(build: Callable[..., nn.Module], width: int = 32, depth: int = 2, **options: Any) -> Parametrized:
    small, wider = {"width": 32, "depth": 2}, {"width": 48, "depth": 2}
    optimizer = {"name": "adamw", "lr": 0.01}
    target = {"width": width, "depth": depth}
    return hptransfer.parametrize(
        build, base=small, delta=wider, target=target, **{"optimizer": optimizer, "init_std": 0.1, **options}
    )


# --- what is inferred ---

GPT2 = {
    "transformer.wte.weight": "readout",
    "transformer.wpe.weight": "embedding.position",
    "transformer.h.*.ln_1.weight": "vector.gain",
    "transformer.h.*.ln_1.bias": "vector.bias",
    "transformer.h.*.attn.c_attn.weight": "hidden.c_attn",
    "transformer.h.*.attn.c_attn.bias": "vector.bias",
    "transformer.h.*.attn.c_proj.weight": "hidden.c_proj",
    "transformer.h.*.attn.c_proj.bias": "vector.bias",
    "transformer.h.*.ln_2.weight": "vector.gain",
    "transformer.h.*.ln_2.bias": "vector.bias",
    "transformer.h.*.mlp.c_fc.weight": "hidden.c_fc",
    "transformer.h.*.mlp.c_fc.bias": "vector.bias",
    "transformer.h.*.mlp.c_proj.weight": "hidden.c_proj",
    "transformer.h.*.mlp.c_proj.bias": "vector.bias",
    "transformer.ln_f.weight": "vector.outer",
    "transformer.ln_f.bias": "vector.outer",
}
LLAMA = {
    "model.embed_tokens.weight": "embedding.token",
    "model.layers.*.self_attn.q_proj.weight": "hidden.q_proj",
    "model.layers.*.self_attn.k_proj.weight": "hidden.k_proj",
    "model.layers.*.self_attn.v_proj.weight": "hidden.v_proj",
    "model.layers.*.self_attn.o_proj.weight": "hidden.o_proj",
    "model.layers.*.mlp.gate_proj.weight": "hidden.gate_proj",
    "model.layers.*.mlp.up_proj.weight": "hidden.up_proj",
    "model.layers.*.mlp.down_proj.weight": "hidden.down_proj",
    "model.layers.*.input_layernorm.weight": "vector.gain",
    "model.layers.*.post_attention_layernorm.weight": "vector.gain",
    "model.norm.weight": "vector.outer",
    "lm_head.weight": "readout",
}
PROJECTIONS = {
    "gpt2": {f"transformer.h.*.{part}.c_proj.{kind}" for part in ("attn", "mlp") for kind in ("weight", "bias")},
    "llama": {"model.layers.*.self_attn.o_proj.weight", "model.layers.*.mlp.down_proj.weight"},
}


@pytest.mark.parametrize(("name", "expected"), [("gpt2", GPT2), ("llama", LLAMA)])
def test_roles_tensor_by_tensor(name: str, expected: dict[str, str]) -> None:
    result = sized(MODELS[name], width=64, depth=4)
    assert {placed.tensor.pattern: placed.role for placed in result.placed} == expected
    assert [tensor.name for tensor in result.tensors] == [name for name, _ in result.model.named_parameters()]
    assert set(result.branches.hosts) == PROJECTIONS[name]
    assert result.branches.factor == 0.5
    assert all(pattern in result.report() for pattern in expected)


LR, EPS, DECAY, STD = 0.01, 1e-8, 0.1, 0.1
HAND = {  # width 32 -> 64, depth 2 -> 4: (init_std, multiplier, lr, eps, weight_decay)
    "gpt2": {
        "transformer.wte.weight": (STD, 1 / 2, LR, EPS / 2, DECAY),
        "transformer.wpe.weight": (STD, 1, LR, EPS / 2, DECAY),
        "transformer.h.3.attn.c_attn.weight": (STD / 2**0.5, 1, LR / 2, EPS / 4, DECAY * 2),
        "transformer.h.3.mlp.c_proj.weight": (STD / 2**0.5 / 2, 1, LR / 4, EPS / 2, DECAY * 4),
        "transformer.h.3.mlp.c_proj.bias": (0, 1, LR / 2, EPS / 2, 0),
        "transformer.h.0.ln_1.weight": (0, 1, LR, EPS / 4, 0),
        "transformer.ln_f.bias": (0, 1, LR, EPS / 2, 0),
    },
    "llama": {
        "model.embed_tokens.weight": (STD, 1, LR, EPS / 2, DECAY),
        "model.layers.0.self_attn.o_proj.weight": (STD / 2**0.5 / 2, 1, LR / 4, EPS / 2, DECAY * 4),
        "model.layers.3.mlp.up_proj.weight": (STD / 2**0.5, 1, LR / 2, EPS / 4, DECAY * 2),
        "lm_head.weight": (STD / 2, 1, LR / 2, EPS, DECAY * 2),
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_numbers_by_hand(name: str) -> None:
    tensors = {tensor.name: tensor for tensor in sized(MODELS[name], width=64, depth=4).tensors}
    for tensor, expected in HAND[name].items():
        planned = tensors[tensor]
        numbers = (planned.init_std, planned.multiplier, planned.lr, planned.eps, planned.weight_decay)
        assert numbers == pytest.approx(expected, rel=1e-15), tensor


@each_model
@pytest.mark.parametrize("scheme", ["mup", "depth_mup", "completep"])
def test_at_its_base_every_scheme_is_sp(build: Callable[..., nn.Module], scheme: str) -> None:
    ours, standard = sized(build, scheme=scheme), sized(build, scheme="sp")
    assert ours.tensors == standard.tensors
    assert all(torch.equal(a, b) for a, b in zip(ours.model.parameters(), standard.model.parameters(), strict=True))
    tokens = torch.arange(CONTEXT).unsqueeze(0)
    assert torch.equal(ours.model(tokens).logits, standard.model(tokens).logits)


def test_the_factor_of_a_tied_head_is_on_the_logits_alone() -> None:
    result = sized(gpt2, width=64)
    hidden = result.model.transformer(torch.arange(CONTEXT).unsqueeze(0)).last_hidden_state
    expected = hidden @ result.model.transformer.wte.weight.T / 2
    torch.testing.assert_close(result.model(torch.arange(CONTEXT).unsqueeze(0)).logits, expected)


def test_a_model_with_its_own_head_is_whole_without_us(tmp_path: Path) -> None:
    """All factors are folded: saved as safetensors and loaded by transformers alone, it gives the same logits."""
    model = sized(llama, width=64, depth=4).model
    model.save_pretrained(tmp_path)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    tokens = torch.arange(CONTEXT).unsqueeze(0)
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


@each_model
def test_copied_and_compiled(build: Callable[..., nn.Module]) -> None:
    result, tokens = sized(build, width=64, depth=4), torch.arange(CONTEXT).unsqueeze(0)
    expected = result.model(tokens).logits
    copied = copy.deepcopy(result.model)
    assert torch.equal(copied(tokens).logits, expected)
    assert [g["names"] for g in result.param_groups(copied)] == [g["names"] for g in result.param_groups()]
    compiled = torch.compile(copied, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens).logits, expected)


# --- what is refused ---


def test_a_fixed_number_of_key_heads_needs_a_word_of_the_user() -> None:
    """Their fan-out does not grow: nothing in a shape tells them from a router."""

    def build(width: int, depth: int) -> nn.Module:
        return llama(width, depth, key_heads=1)

    with pytest.raises(UserError, match=r"k_proj\.weight \(16, 32 -> 64\): Linear in a repeated block") as refused:
        sized(build, width=64)
    assert "v_proj.weight" in str(refused.value)
    assert "roles={'model.layers.*.self_attn.k_proj.weight': 'hidden'}" in str(refused.value)
    result = sized(build, width=64, roles={"*.k_proj.*": "hidden.key", "*.v_proj.*": "hidden.value"})
    assert {tensor.lr for tensor in result.tensors if tensor.role == "hidden.key"} == {LR / 2}


def test_a_growing_head_is_refused_with_what_to_set() -> None:
    def build(width: int, depth: int) -> nn.Module:
        return llama(width, depth, heads=2)

    with pytest.raises(UserError, match=r"head_dim is 16 in base and 32 in the target, and completep .* by 0\.125"):
        sized(build, width=64)
    assert "left as it is" in sized(build, width=64, attention_is_right=True).report()


def gemma2(width: int, depth: int) -> nn.Module:
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": depth, "head_dim": HEAD}
    heads = {"num_attention_heads": width // HEAD, "num_key_value_heads": width // HEAD}
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(vocab_size=VOCABULARY, **sizes, **heads))


def undone(width: int, depth: int) -> nn.Module:
    model = gemma2(width, depth)
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: output / width**0.5)
    return model


def test_what_the_code_takes_from_its_width_is_refused() -> None:
    """Gemma multiplies its embeddings by sqrt(width), here 32 and 48."""
    with pytest.raises(UserError, match=r"rms of 5\.657 in base and 6\.928 in delta.*undo that in build"):
        sized(gemma2, scheme="mup")
    gains = [tensor for tensor in sized(undone, scheme="mup").tensors if tensor.role.startswith("vector")]
    assert {tensor.init_mean for tensor in gains} == {0.0}, "Gemma's norms multiply by 1 + gain"


def test_norms_behind_the_branch_are_refused() -> None:
    with pytest.raises(UserError, match="no factor can be folded into them"):
        sized(undone, width=32, depth=4)


# --- does it train, and stay as large as it is ---


def steps_of(result: Parametrized, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[float]:
    optimizer = torch.optim.AdamW(result.param_groups())
    for inputs, targets in batches:
        loss = F.cross_entropy(result.model(inputs).logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        yield loss.item()


def batches_of(config: RunConfig, runs: Path, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    data = open_data(config.data, runs)
    for step in range(steps):
        inputs, targets = data.batch(0, step, 8)
        yield torch.from_numpy(inputs), torch.from_numpy(targets)


@pytest.mark.slow
@each_model
def test_coordinate_check(build: Callable[..., nn.Module], on_text: Any, tmp_path: Path) -> None:
    data = open_data(on_text().data, tmp_path)

    def batches(seed: int, step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = data.batch(seed, step, 32)
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def check(scheme: str, **sizes: Any) -> Check:
        def at(**size: int) -> Parametrized:
            return sized(build, scheme=scheme, **size)

        return hptransfer.check_model(at, batches, steps=6, seeds=2, **sizes)

    found = check("completep", widths=(32, 64, 128), depths=(2, 4, 8))
    assert [ladder.outcome for ladder in found.ladders] == ["PASS", "PASS"], to_text(found)
    assert not check("sp", widths=(32, 64, 128)).passed


@each_model
def test_a_short_run_and_its_record(build: Callable[..., nn.Module], on_text: Any, tmp_path: Path) -> None:
    steps, batch_tokens = 40, 8 * CONTEXT
    result = sized(build, width=64, depth=4)
    with hptransfer.RunRecorder(result.facts(steps * batch_tokens, batch_tokens), runs=tmp_path / "runs") as run:
        losses = list(steps_of(result, batches_of(on_text(), tmp_path, steps)))
        for step, loss in enumerate(losses, start=1):
            assert run.log(step=step, loss=loss)
        run.finish(loss=losses[-1])
    assert losses[0] > 5
    assert losses[-1] < 3
    (row,) = hptransfer.read_rows([tmp_path / "runs"])
    assert (row.status, row.width, row.depth, row.params) == ("finished", 64, 4, result.params)
    assert row.recipe["parametrization"] == "completep"


def test_the_example_in_the_readme_is_short_and_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "GPT2" in block)
    assert len(example.splitlines()) < 15
    exec(example, known := {})
    assert "factor 0.25 folded into init_std" in capsys.readouterr().out
    lrs = {group["lr"] for group in known["optimizer"].param_groups}
    # embeddings and vectors; matrices, at four times the base width; those that the branches' factor 1/4 is folded into
    assert lrs == {0.01, 0.01 / 4, 0.01 / 16}

"""The smallest configs that say everything: models that train in milliseconds."""

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from hptransfer.config import RunConfig
from hptransfer.parametrization import FAMILIES, SCHEMES

TINY: dict[str, dict[str, Any]] = {
    "model": {"name": "gpt", "width": 16, "depth": 2, "head_dim": 8, "ffn_ratio": 2},
    "parametrization": {"name": "completep", "base_width": 16, "base_depth": 2},
    "optimizer": {"name": "adamw", "lr": 0.01},
    "data": {"source": "text", "path": "text", "seq_len": 16},
    "train": {"tokens": 768, "batch_tokens": 64, "eval_tokens": 128},
}
"""12 steps of 4 sequences."""


def plain(**sections: dict[str, Any]) -> dict[str, Any]:
    """TINY with some keys changed; a section whose `name` or `source` is given anew keeps only the keys given."""
    data = copy.deepcopy(TINY)
    for section, changes in sections.items():
        kept = data.get(section, {})
        for tag in ("name", "source"):
            if section != "parametrization" and tag in changes and changes[tag] != kept.get(tag):
                kept = {key: kept[key] for key in ("width", "depth", "lr", "seq_len") if key in kept}
        data[section] = {key: value for key, value in {**kept, **changes}.items() if value is not None}
    return data


def tiny(**sections: dict[str, Any]) -> RunConfig:
    """The config of `plain(...)`."""
    return RunConfig.model_validate(plain(**sections))


def write(path: Path, data: Any) -> Path:
    """A YAML file of text, or of plain data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


small = st.floats(1e-6, 10, allow_nan=False)
shares = st.floats(0, 0.5)


@st.composite
def configs(draw: st.DrawFn) -> RunConfig:
    """Valid configs of every kind."""
    head_dim = draw(st.sampled_from([2, 4, 8]))
    group = draw(st.sampled_from([1, 2]))
    base_heads, factor = group * draw(st.integers(1, 3)), draw(st.integers(1, 4))
    name = draw(st.sampled_from([name for name in FAMILIES if name != "muon"]))
    scheme = draw(st.sampled_from([key for key, scheme in SCHEMES.items() if FAMILIES[name] in scheme.rules]))
    shape = {"width": head_dim * base_heads * factor, "depth": draw(st.integers(1, 4))}
    gpt = {
        **shape,
        "kv_heads": base_heads * factor // group,
        "ffn_ratio": draw(st.sampled_from([1, 2, 2.5, 4])),
        "norm": draw(st.sampled_from(["layernorm", "rmsnorm"])),
        "activation": draw(st.sampled_from(["gelu", "swiglu"])),
        "positions": draw(st.sampled_from(["learned", "rope"])),
        "qk_norm": draw(st.booleans()),
        "tie_embeddings": draw(st.booleans()),
        "head_dim": head_dim,
    }
    mlp = {"name": "mlp", **shape, "window": draw(st.integers(1, 4))}
    seq_len = draw(st.sampled_from([8, 16]))
    own = {"adamw": {"eps": small, "betas": st.tuples(shares, shares)}, "sgd": {"momentum": shares}}[name]
    keys = {"name": st.just(name), "lr": small, "weight_decay": small, **own}
    optimizer = draw(st.fixed_dictionaries(keys))
    schedule = {"name": draw(st.sampled_from(["linear", "cosine", "wsd", "constant"])), "warmup": draw(shares)}
    return RunConfig.model_validate(
        {
            "model": draw(st.sampled_from([gpt, mlp])),
            "parametrization": {
                "name": scheme,
                "base_width": head_dim * base_heads,
                "base_depth": draw(st.integers(1, 4)),
                "base_tokens": 16000,
                "base_batch_tokens": 160,
                "init_std": draw(small),
                "multipliers": {"input": draw(small), "residual": draw(small)},
                "lr_multipliers": draw(st.dictionaries(st.sampled_from(["hidden", "vector", "readout"]), small)),
                "decay_vectors": draw(st.booleans()),
                "weight_decay_rule": draw(st.sampled_from(["paper", "independent", "sqrt", "unscaled"])),
                "embedding_lr": draw(st.sampled_from([None, "constant", "inverse_sqrt"])) if name == "adamw" else None,
            },
            "optimizer": optimizer,
            "schedule": schedule,
            "data": {"source": "text", "path": draw(st.sampled_from(["a b.txt", ["x", "y: #1"]])), "seq_len": seq_len},
            "train": {"tokens": 16 * draw(st.integers(100, 10**9)), "batch_tokens": 16 * draw(st.integers(1, 50))},
            "tracking": {"tags": draw(st.lists(st.text(max_size=4), max_size=2))},
        }
    )

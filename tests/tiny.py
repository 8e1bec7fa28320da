"""The smallest configs that say everything: models that train in milliseconds."""

import copy
from pathlib import Path
from typing import Any

import yaml

from hptransfer.config import RunConfig

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

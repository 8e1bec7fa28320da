"""Run folders as training leaves them, made without training: configs, results and curves of a known valley."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def make_run(folder: Path, **changes: Any) -> Path:
    """loss = 3 + 1 / params^0.1 + 0.1 ln(lr / 0.01)^2, unless `loss` or another value of the result is given."""
    lr, width = changes.get("lr", 0.01), changes.get("width", 64)
    params = 12 * 2 * width**2
    result: dict[str, Any] = {
        "status": "finished",
        "loss": 3 + params**-0.1 + 0.1 * math.log(lr / 0.01) ** 2,
        "params": params,
        "tokens": 1_000_000,
        "batch_tokens": 4096,
        "lr": lr,
        "weight_decay": 0.1,
        "width": width,
        "depth": 2,
        "seed": 0,
        "seconds": 12.5,
        "parametrization": "completep",
        "base_width": 64,
        "base_depth": 2,
        "optimizer": "adamw",
        **changes,
    }
    folder.mkdir(parents=True)
    config = {
        "model": {"width": width, "depth": 2},
        "parametrization": {"name": result["parametrization"], "init_std": 0.02},
        "optimizer": {"lr": lr},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(step)}\n" for step in steps(result)))
    return folder


def steps(result: dict[str, Any], count: int = 200) -> list[dict[str, Any]]:
    """From 6 nats down to the result's loss; where the run diverged, null from the middle on."""
    lost = result["status"] == "diverged"
    end = 3.0 if lost else result["loss"]
    return [
        {
            "step": i,
            "tokens": i * 5000,
            "loss": None if lost and i > count / 2 else end + (6 - end) * math.exp(-i / 20),
            "lr": result["lr"],
            "grad_norm": 1 / i,
            **({"update/hidden": 0.001, "activation/stream": result["width"] / 64} if i % 20 == 0 else {}),
        }
        for i in range(1, count + 1)
    ]


def make_sweep(folder: Path, widths: Sequence[int] = (64, 128, 256), lrs: int = 6, **changes: Any) -> Path:
    """A run for each width and power of two of the lr, the last of each width diverged."""
    for width in widths:
        for k in range(lrs):
            lost = {"status": "diverged", "loss": None} if k == lrs - 1 else {}
            name = "-".join(map(str, (changes.get("parametrization", "run"), width, k)))
            make_run(folder / name, width=width, lr=0.01 * 2.0 ** (k - lrs // 2), **{**changes, **lost})
    return folder

"""The time of one training step of models/gpt.py over that of nanoGPT's architecture at equal shape.

    OMP_NUM_THREADS=1 python benchmarks/gpt_step.py --output benchmarks/results/gpt_step.csv

A step is forward, cross-entropy, backward, clipping and AdamW, in float32 on one CPU thread. The contestants take
turns in one process, in an order drawn anew each round. Times are CPU time, which other load on the machine disturbs
less than the clock's. A ratio is ours over theirs, of the medians, with a 95 % bootstrap interval over rounds.

The reference is written anew after github.com/karpathy/nanoGPT (model.py, train.py). nanoGPT takes the fused AdamW on
CUDA alone; the fair reference has it here too, as our training does. Its GPTConfig has biases, its train.py has not.
"""

import argparse
import csv
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median, quantiles
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import gpt

SHAPE = SimpleNamespace(
    width=256,
    depth=4,
    heads=4,
    head_dim=64,
    kv_heads=4,
    ffn_ratio=4,
    norm="layernorm",
    activation="gelu",
    positions="learned",
    qk_norm=False,
    tie_embeddings=True,
    vocab_size=256,
    seq_len=256,
)
MULTIPLIERS = SimpleNamespace(input=1.0, residual=1.0, attention=SHAPE.head_dim**-0.5, output=1.0)


class LayerNorm(nn.Module):
    """Gain, and a bias where asked."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class NanoBlock(nn.Module):
    """nanoGPT's block: one fused query, key and value projection, GELU, dropout modules (at 0) where it has them."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = LayerNorm(width, bias), LayerNorm(width, bias)
        self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = nn.Linear(width, width, bias=bias)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=bias), nn.GELU(), nn.Linear(4 * width, width, bias=bias), nn.Dropout(0.0)
        )
        self.dropout = nn.Dropout(0.0)

    def attention(self, x: Tensor) -> Tensor:
        batch, length, width = x.size()
        projected = self.c_attn(x).split(width, dim=2)
        q, k, v = (y.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for y in projected)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.dropout(self.c_proj(y.transpose(1, 2).contiguous().view(batch, length, width)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    """nanoGPT: GPT-2 with learned positions and one tensor for token embedding and head."""

    def __init__(self, shape: SimpleNamespace, bias: bool) -> None:
        super().__init__()
        self.wte = nn.Embedding(shape.vocab_size, shape.width)
        self.wpe = nn.Embedding(shape.seq_len, shape.width)
        self.dropout = nn.Dropout(0.0)
        self.blocks = nn.ModuleList(NanoBlock(shape.width, shape.heads, bias) for _ in range(shape.depth))
        self.ln_f = LayerNorm(shape.width, bias)
        self.lm_head = nn.Linear(shape.width, shape.vocab_size, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.dropout(self.wte(inputs) + self.wpe(torch.arange(inputs.size(1))))
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def groups_by_role(model: nn.Module) -> list[dict]:
    """One optimizer group for each role, which is as many as any parametrization needs."""
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        role = next(role for pattern, role in gpt.ROLES.items() if fnmatchcase(name, pattern))
        groups.setdefault(role, []).append(parameter)
    return [{"params": parameters} for parameters in groups.values()]


def groups_by_decay(model: nn.Module) -> list[dict]:
    """nanoGPT's two groups: matrices, and the rest without weight decay."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]


def make_step(model: nn.Module, groups: list[dict], batch: int, fused: bool | None) -> Callable[[], None]:
    """A function that trains one step on a fixed batch, with nanoGPT's settings."""
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            nn.init.normal_(parameter, std=0.02)
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=fused)
    inputs, targets = torch.randint(SHAPE.vocab_size, (2, batch, SHAPE.seq_len))

    def step() -> None:
        F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def contestants(batch: int) -> dict[str, Callable[[], None]]:
    """Ours first, then the references."""
    ours = gpt.build(SHAPE, MULTIPLIERS)
    steps = {"ours": make_step(ours, groups_by_role(ours), batch, fused=True)}
    for bias, fused in ((False, True), (True, True), (False, None)):
        nano = NanoGPT(SHAPE, bias)
        name = f"nanoGPT bias={bias} fused={fused}"
        steps[name] = make_step(nano, groups_by_decay(nano), batch, fused)
    return steps


def measure(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of every step, after two rounds of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 2):
        for name in random.sample(list(steps), len(steps)):
            start = time.process_time()
            steps[name]()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: values[2:] for name, values in times.items()}


def ratio_with_interval(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Ratio of the medians and its 95 % bootstrap interval, rounds resampled as pairs."""
    pairs = list(zip(ours, theirs, strict=True))
    draws = [random.choices(pairs, k=len(pairs)) for _ in range(2000)]
    cuts = quantiles([median(a for a, _ in draw) / median(b for _, b in draw) for draw in draws], n=40)
    return median(ours) / median(theirs), cuts[0], cuts[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4, help="sequences in a step")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--output", type=Path, help="CSV file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    times = measure(contestants(options.batch), options.rounds)
    (_, ours), *references = times.items()
    table = [("reference", "batch", "rounds", "ours_ms", "reference_ms", "ratio", "ratio_low", "ratio_high")]
    for name, theirs in references:
        ratio = (f"{value:.3f}" for value in ratio_with_interval(ours, theirs))
        table.append((name, options.batch, options.rounds, f"{median(ours):.1f}", f"{median(theirs):.1f}", *ratio))
    for name, *cells in table:
        print(f"{name:38}", *(f"{cell:>12}" for cell in cells))
    if options.output:
        machine = f"{platform.machine()}, load {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores"
        with options.output.open("w", newline="") as file:
            print(f"# python {' '.join(sys.argv)}; torch {torch.__version__}, {machine}", file=file)
            csv.writer(file, lineterminator="\n").writerows(table)


if __name__ == "__main__":
    main()

"""Looking inside one forward pass: what comes out of every module, the attention logits, the residual stream."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from hptransfer.losses import logits_of

Activations = dict[str, list[Tensor]]
"""Module name, blocks by pattern (`blocks.*.up`) -> what came out of it in one forward pass, one tensor per call."""

# Names of what has no module of its own; those with a space in them can be no module's.

LOGITS = "logits"
"""The model's output."""

SCORES = "attention logits"
"""Last part of a name: what enters the softmax of an attention module."""

STREAM_IN, STREAM_OUT, ADDED = "stream in", "stream out", "added by a block"
"""Last part of a name, after that of a list of blocks: the residual stream before and after all of them, and what one
block adds to it."""


def rms(tensors: Iterable[Tensor]) -> float:
    """Root-mean-square over the entries of all tensors, summed in float64."""
    pairs = [(float(x.detach().double().square().sum()), x.numel()) for x in tensors]
    return float((sum(total for total, _ in pairs) / max(1, sum(count for _, count in pairs))) ** 0.5)


@torch.no_grad()
def observe(model: nn.Module, inputs: Tensor) -> Activations:
    """The outputs of all innermost modules (but dropout's) in one forward pass, and what LOGITS and its neighbours
    name."""
    eye = _Eye(model)
    with eye.open(), _Scores(eye):
        output = model(inputs)
    logits = logits_of(output)
    seen: Activations = {}
    for name, tensors in eye.seen.items():
        if not any(x is logits for x in tensors):
            seen.setdefault(pattern(name), []).extend(tensors)
    return {**seen, LOGITS: [logits]}


def pattern(name: str) -> str:
    """`blocks.3.up` -> `blocks.*.up`."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def block_lists(model: nn.Module) -> dict[str, int]:
    """Names and lengths of the outermost module lists: blocks along a residual stream (a list in a block is another
    matter: experts, say)."""
    lists = {name: len(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    return {name: length for name, length in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}


class _Eye:
    """Hooks on every module for one forward pass; `seen` is what came out, in the order of the forward pass.

    The residual stream is what a block takes, and what is taken by the module that is called after the last block.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.seen: Activations = {}
        self.inside: list[str] = []
        self.place = {f"{of}.{i}": (of, i, length) for of, length in block_lists(model).items() for i in range(length)}
        self.stream: Tensor | None = None
        self.ended: str | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """The hooks are there while the context is open."""
        handles: list[Any] = []
        for name, module in self.model.named_modules():
            handles.append(module.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True))
            handles.append(module.register_forward_hook(partial(self._leave, name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def see(self, name: str, tensor: Tensor) -> None:
        """Adds to what was seen under a name."""
        self.seen.setdefault(name, []).append(tensor)

    def _enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.inside.append(name)
        stream = next(iter((*args, *kwargs.values())), None)
        if not isinstance(stream, Tensor):
            return
        if name in self.place:
            of, index, _ = self.place[name]
            self._flow(of, stream, first=index == 0)
        elif self.ended is not None:
            self._flow(self.ended, stream, first=False)
            self.see(f"{self.ended}.{STREAM_OUT}", stream)
            self.ended = None

    def _leave(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.inside.pop()
        innermost = next(module.children(), None) is None and not isinstance(module, _DropoutNd)
        if innermost and isinstance(output, Tensor) and output.is_floating_point():
            self.see(name, output)
        of, index, length = self.place.get(name, ("", 0, 0))
        if index + 1 == length:
            self.ended = of

    def _flow(self, of: str, stream: Tensor, first: bool) -> None:
        if first:
            self.see(f"{of}.{STREAM_IN}", stream)
        elif self.stream is not None and self.stream.shape == stream.shape:
            self.see(f"{of}.{ADDED}", stream - self.stream)
        self.stream = stream


class _Scores(TorchFunctionMode):
    """Sees the attention logits of torch's scaled_dot_product_attention, before the mask and the softmax."""

    def __init__(self, eye: _Eye) -> None:
        self.eye = eye

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._see(*args[:2], **kwargs)
        return func(*args, **kwargs)

    def _see(self, query: Tensor, key: Tensor, *_: Any, scale: float | None = None, **rest: Any) -> None:
        """(B, H, T, K) and (B, G, T, K); where attention is causal, pairs with a later key are left out."""
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if rest.get("is_causal"):
            scores = scores[..., torch.ones(scores.shape[-2:], dtype=torch.bool).tril()]
        self.eye.see(f"{self.eye.inside[-1]}.{SCORES}", scores)

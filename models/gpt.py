"""A decoder-only transformer (GPT) in plain PyTorch: pre-norm, causal, no dropout, no biases in its linear layers.

With `experts` in its shape, each feed-forward branch is a sparse mixture of them.

Capitals after an underscore name a tensor's axes: B batch, T time, D width, H query heads, G key/value heads,
K head_dim, F feed-forward width, V vocabulary; N tokens of a batch, E experts, A of them active for a token.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# How each parameter grows. `hidden` and `vector` are inside a residual branch, with the suffix `outer` outside.
BLOCK_ROLES = {
    "blocks.*.norm.weight": "vector.gain",
    "blocks.*.norm.bias": "vector.bias",
    "blocks.*.query.weight": "hidden.query",
    "blocks.*.key.weight": "hidden.key",
    "blocks.*.value.weight": "hidden.value",
    "blocks.*.query_norm.weight": "vector.qk_gain",
    "blocks.*.key_norm.weight": "vector.qk_gain",
    "blocks.*.attention_output.weight": "hidden.attention_output",
    "blocks.*.feed_forward.up.weight": "hidden.up",
    "blocks.*.feed_forward.gate.weight": "hidden.gate",
    "blocks.*.feed_forward.down.weight": "hidden.down",
}
ROLES = {
    "token_embedding.weight": "embedding.token",
    "position_embedding.weight": "embedding.position",
    **BLOCK_ROLES,
    "blocks.*.router.weight": "hidden.router",
    "blocks.*.experts.*.up.weight": "hidden.expert.up",
    "blocks.*.experts.*.gate.weight": "hidden.expert.gate",
    "blocks.*.experts.*.down.weight": "hidden.expert.down",
    "norm.*": "vector.outer",
    "readout.weight": "readout",
}

# As in OLMo 2 and Qwen 3. GPT-2's 1e-5 takes 1 % off a residual stream that begins at rms 0.02 (variance 4e-4).
NORM_EPS = 1e-6
# Su et al. 2104.09864, section 3.3
ROPE_BASE = 10_000.0

Rotation = tuple[Tensor, Tensor]


class GPT(nn.Module):
    """Token ids (B, T) with T <= seq_len -> logits (B, T, V); the logits at t see the tokens up to and with t.

    With experts: (logits, auxiliary loss), the latter `load_balance` times the imbalance of the routing, its mean over
    blocks. A mean, not Switch's sum: it keeps its ratio to the cross-entropy's gradient, m_L^-1 in a block at alpha 1.

    The multipliers are floats as applied: `input` scales the sum of the embeddings, `residual` each attention and
    each feed-forward branch; `attention` is the whole scale of the attention logits, `output` that of the logits.
    A tied readout also embeds the tokens; `output` is for its logits alone (the tie-able form, 2203.03466 table 8).
    """

    def __init__(self, shape: Any, multipliers: Any) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.input_multiplier = multipliers.input
        self.output_multiplier = multipliers.output
        self.load_balance = shape.load_balance if has_experts(shape) else None
        tied, rope = shape.tie_embeddings, {"learned": False, "rope": True}[shape.positions]
        self.token_embedding = None if tied else nn.Embedding(shape.vocab_size, shape.width)
        self.position_embedding = None if rope else nn.Embedding(shape.seq_len, shape.width)
        self.blocks = nn.ModuleList(Block(shape, multipliers) for _ in range(shape.depth))
        self.norm = make_norm(shape)
        self.readout = nn.Linear(shape.width, shape.vocab_size, bias=False)

    def forward(self, inputs_BT: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        time = inputs_BT.shape[1]
        x_BTD = F.embedding(inputs_BT, (self.token_embedding or self.readout).weight)
        rotation = None
        if self.position_embedding is None:
            rotation = rope_tables(time, self.head_dim, x_BTD.device)
        else:
            x_BTD = x_BTD + self.position_embedding.weight[:time]
        x_BTD = scale(x_BTD, self.input_multiplier)
        imbalances = []
        for block in self.blocks:
            if self.load_balance is None:
                x_BTD = block(x_BTD, rotation)
            else:
                x_BTD, imbalance = block(x_BTD, rotation)
                imbalances.append(imbalance)
        # on the readout's input, which a large vocabulary makes smaller than the logits
        logits_BTV = self.readout(scale(self.norm(x_BTD), self.output_multiplier))
        return (logits_BTV, self.load_balance * torch.stack(imbalances).mean()) if imbalances else logits_BTV


build = GPT


class Block(nn.Module):
    """Two residual branches: attention, then feed-forward. With experts it returns their imbalance too."""

    def __init__(self, shape: Any, multipliers: Any, causal: bool = True) -> None:
        super().__init__()
        self.residual_multiplier = multipliers.residual
        self.attention = Attention(shape, multipliers.attention, causal)
        self.feed_forward = MixtureOfExperts(shape) if has_experts(shape) else FeedForward(shape, make_norm(shape))

    def forward(self, x_BTD: Tensor, rotation: Rotation | None = None) -> Tensor | tuple[Tensor, Tensor]:
        x_BTD = torch.add(x_BTD, self.attention(x_BTD, rotation), alpha=self.residual_multiplier)
        fed = self.feed_forward(x_BTD)
        if isinstance(fed, Tensor):
            return torch.add(x_BTD, fed, alpha=self.residual_multiplier)
        fed_BTD, imbalance = fed
        return torch.add(x_BTD, fed_BTD, alpha=self.residual_multiplier), imbalance


class Attention(nn.Module):
    """Norm, grouped-query attention, causal or not (Ainslie et al. 2305.13245), projection onto the residual stream.

    Query, key and value are three parameters, since their roles and fan-outs differ, but one matrix product; hooks
    find queries and keys at `query_norm` and `key_norm`. QK-norm (after Henry et al. 2010.04245) is an RMS norm over
    head_dim with one gain for all heads.
    """

    def __init__(self, shape: Any, multiplier: float, causal: bool) -> None:
        super().__init__()
        self.multiplier = multiplier
        self.causal = causal
        self.heads, self.kv_heads, self.head_dim = shape.heads, shape.kv_heads, shape.head_dim
        self.norm = make_norm(shape)
        self.query = nn.Linear(shape.width, shape.heads * shape.head_dim, bias=False)
        self.key = nn.Linear(shape.width, shape.kv_heads * shape.head_dim, bias=False)
        self.value = nn.Linear(shape.width, shape.kv_heads * shape.head_dim, bias=False)
        self.query_norm = RMSNorm(shape.head_dim, eps=NORM_EPS) if shape.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(shape.head_dim, eps=NORM_EPS) if shape.qk_norm else nn.Identity()
        self.attention_output = nn.Linear(shape.heads * shape.head_dim, shape.width, bias=False)

    def forward(self, x_BTD: Tensor, rotation: Rotation | None) -> Tensor:
        weight = torch.cat([self.query.weight, self.key.weight, self.value.weight])
        projected = F.linear(self.norm(x_BTD), weight).unflatten(-1, (-1, self.head_dim))
        q_BTHK, k_BTGK, v_BTGK = projected.split([self.heads, self.kv_heads, self.kv_heads], dim=2)
        q_BTHK, k_BTGK = self.query_norm(q_BTHK), self.key_norm(k_BTGK)
        if rotation is not None:
            q_BTHK, k_BTGK = rotate(q_BTHK, rotation), rotate(k_BTGK, rotation)
        attended_BHTK = F.scaled_dot_product_attention(
            q_BTHK.transpose(1, 2),
            k_BTGK.transpose(1, 2),
            v_BTGK.transpose(1, 2),
            is_causal=self.causal,
            scale=self.multiplier,
            enable_gqa=self.kv_heads != self.heads,
        )
        return self.attention_output(attended_BHTK.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Norm, then `down(gelu(up(x)))` or SwiGLU's `down(silu(gate(x)) * up(x))` (Shazeer 2002.05202, eq. 6)."""

    def __init__(self, shape: Any, norm: nn.Module) -> None:
        super().__init__()
        gated = {"gelu": False, "swiglu": True}[shape.activation]
        ffn_width = round(shape.ffn_ratio * shape.width)
        self.norm = norm
        self.up = nn.Linear(shape.width, ffn_width, bias=False)
        self.gate = nn.Linear(shape.width, ffn_width, bias=False) if gated else None
        self.down = nn.Linear(ffn_width, shape.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = self.norm(x_BTD)
        h_BTF = self.up(x_BTD)
        return self.down(F.gelu(h_BTF) if self.gate is None else F.silu(self.gate(x_BTD)) * h_BTF)


class MixtureOfExperts(nn.Module):
    """Norm, then the mean over a token's active experts of gate * expert, with gate = sigmoid(router logit): the form
    of Jiang et al. (2601.20205, section 3.1), whose scaling rules are for it. The router picks the highest logits; no
    token is dropped, and none has any say in where another goes.

    Every expert is a module with matrices of its own, called on the tokens that it is sent. The imbalance is the loss
    of Switch Transformer (2101.03961, equations 4 to 6) without its coefficient: E * sum over experts of the share of
    all choices that fall on one, times its mean probability by the router's softmax; 1 where they are balanced.
    """

    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.active = shape.experts_per_token
        self.norm = make_norm(shape)
        self.router = nn.Linear(shape.width, shape.experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(shape, nn.Identity()) for _ in range(shape.experts))
        self.mixture = nn.Identity()  # hooks find what is added to the stream here

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        x_ND = self.norm(x_BTD).flatten(0, 1)
        logits_NE = self.router(x_ND)
        logits_NA, chosen_NA = logits_NE.topk(self.active)
        chosen_E = (chosen_NA.flatten().unsqueeze(-1) == torch.arange(len(self.experts), device=x_ND.device)).sum(0)
        by_expert = chosen_NA.flatten().argsort(stable=True)
        sent = x_ND[by_expert // self.active].split(group_sizes(chosen_E, by_expert.numel()))
        received = torch.cat([expert(tokens) for expert, tokens in zip(self.experts, sent, strict=True)])
        expert_NAD = received[by_expert.argsort()].unflatten(0, chosen_NA.shape)
        mixed_ND = (logits_NA.sigmoid().unsqueeze(-1) * expert_NAD).mean(1)
        share_E = chosen_E / chosen_NA.numel()
        imbalance = len(self.experts) * (share_E * logits_NE.softmax(-1).mean(0)).sum()
        return self.mixture(mixed_ND.view_as(x_BTD)), imbalance


def group_sizes(chosen_E: Tensor, total: int) -> list[int]:
    """How many tokens go to each expert; on the meta device, where no one knows, equally many: the cost is the same."""
    if chosen_E.is_meta:
        count = len(chosen_E)
        return [total // count + (index < total % count) for index in range(count)]
    return chosen_E.tolist()


def has_experts(shape: Any) -> bool:
    """Whether feed-forward branches are mixtures of experts."""
    return getattr(shape, "experts", None) is not None


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` with its gain in the input's precision: autocast leaves them apart, which no fused kernel takes."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.type_as(x), self.eps)


def scale(x: Tensor, multiplier: float) -> Tensor:
    """x * multiplier, at no cost where that is x itself."""
    return x if multiplier == 1.0 else x * multiplier


def make_norm(shape: Any) -> nn.Module:
    """LayerNorm with gain and bias, as in GPT-2, or RMSNorm with a gain."""
    return {"layernorm": nn.LayerNorm, "rmsnorm": RMSNorm}[shape.norm](shape.width, eps=NORM_EPS)


def rope_tables(time: int, head_dim: int, device: torch.device) -> Rotation:
    """Cosines and signed sines (T, 1, K) of position * base^(-2i / head_dim) (2104.09864, eq. 15).

    Made anew in every forward pass (a small part of its cost), so that the model has no buffers to lose.
    """
    frequency = ROPE_BASE ** (-torch.arange(0, head_dim, 2, device=device) / head_dim)
    angle = torch.outer(torch.arange(time, device=device), frequency).unsqueeze(1)
    cosine, sine = angle.cos(), angle.sin()
    return torch.cat([cosine, cosine], dim=-1), torch.cat([-sine, sine], dim=-1)


def rotate(x_BTHK: Tensor, rotation: Rotation) -> Tensor:
    """Turns every pair (i, i + head_dim / 2) of a head by the angle of its position."""
    cosine_T1K, sine_T1K = rotation
    swapped_BTHK = x_BTHK.roll(x_BTHK.shape[-1] // 2, dims=-1)
    return (x_BTHK * cosine_T1K + swapped_BTHK * sine_T1K).type_as(x_BTHK)

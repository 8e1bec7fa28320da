"""The sections `train` and `tracking`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hptransfer.sections.values import Count, Flag, NonNegative, Positive, Section, Whole


class Train(Section):
    """Budget, batch, numerics."""

    tokens: Count | None = None
    """Budget of the run in tokens."""
    tokens_per_param: Positive | None = None
    """Budget as a multiple of the non-embedding parameters. Default, where tokens is not given: 20."""
    batch_tokens: Count | None = None
    """Tokens per optimizer step, a multiple of data.seq_len. Default: 64 sequences."""
    micro_batch: Count | None = None
    """Sequences per forward pass; gradients are accumulated over the batch. Default: the whole batch."""
    seed: Annotated[Whole, Field(lt=2**63)] = 0
    """Of the initial weights and of the order of the data."""
    grad_clip: NonNegative = 1.0
    """Largest norm of the whole gradient; 0 turns clipping off."""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """bfloat16 is autocast: weights stay in float32."""
    compile: Flag = False
    """torch.compile the model."""
    eval_tokens: Count = 131072
    """Size of the fixed held-out set that `loss` is measured on."""
    eval_every: Count | None = None
    """Steps between measurements of the held-out loss. Default: at the end only."""
    log_every: Count = 1
    """Steps between lines of metrics.jsonl."""
    watch_every: Whole = 100
    """Steps between looks at activations, update sizes and gradient noise (one costs about a step); 0: none."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the best there is."""
    threads: Count = 1
    """CPU threads of one run."""
    checkpoint_seconds: NonNegative = 60.0
    """Seconds between checkpoints."""
    save_weights: Flag = True
    """Keep the trained weights (weights.pt) in the run folder."""
    keep_stable: Flag = False
    """Keep the state before schedule wsd lowers the lr (stable.pt), for a longer run to go on from (sweep --deepen)."""

    @model_validator(mode="after")
    def _one_budget(self) -> "Train":
        if self.tokens is not None and self.tokens_per_param is not None:
            raise ValueError(
                f"give tokens (= {self.tokens}) or tokens_per_param (= {self.tokens_per_param:g}), not both"
            )
        return self


class Tracking(Section):
    """Weights & Biases. Never in the way of a run, never part of its identity."""

    wandb: Literal["disabled", "offline", "online"] = "disabled"
    project: str = "hptransfer"
    entity: str | None = None
    group: str | None = None
    """Default: the sweep's name."""
    name: str | None = None
    job_type: str | None = None
    """Default: proxy for the runs of a sweep, target for a config that transfer has written, else train."""
    tags: list[str] = []

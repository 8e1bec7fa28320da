"""Names of what has no module of its own; those with a space in them can be no module's."""

LOGITS = "logits"
"""The model's output."""

SCORES = "attention logits"
"""Last part of a name: what enters the softmax of an attention module."""

STREAM_IN, STREAM_OUT, ADDED = "stream in", "stream out", "added by a block"
"""Last part of a name, after that of a list of blocks: the residual stream before and after all of them, and what one
block adds to it."""

"""Models in plain PyTorch, one file each: `build(shape, multipliers)` with its `ROLES` beside it."""

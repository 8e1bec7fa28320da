"""Figures are functions of rows: what they show is computed apart from how it is drawn."""

from hptransfer.figures.against import predicted_against_measured
from hptransfer.figures.flatness import stability_against_size
from hptransfer.figures.style import to_svg
from hptransfer.figures.training import stability, training_curves
from hptransfer.figures.valleys import optimum_against_size, u_curves

__all__ = [
    "optimum_against_size",
    "predicted_against_measured",
    "stability",
    "stability_against_size",
    "to_svg",
    "training_curves",
    "u_curves",
]

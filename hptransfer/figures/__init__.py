"""Figures are functions of rows: what they show is computed apart from how it is drawn."""

from hptransfer.figures.against import predicted_against_measured
from hptransfer.figures.style import to_svg
from hptransfer.figures.training import stability, training_curves
from hptransfer.figures.valleys import optimum_against_size, u_curves

__all__ = ["optimum_against_size", "predicted_against_measured", "stability", "to_svg", "training_curves", "u_curves"]

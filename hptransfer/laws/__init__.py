"""Laws of optimal hyperparameters: rows in, laws out, predictions with intervals. numpy only."""

from hptransfer.laws.fitting import fit
from hptransfer.laws.laws import Laws
from hptransfer.laws.predict import Estimate, Prediction

__all__ = ["Estimate", "Laws", "Prediction", "fit"]

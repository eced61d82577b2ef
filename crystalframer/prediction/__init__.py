"""Prediction for crystals of any origin.

from crystalframer.prediction import load_predictor

predictor = load_predictor("runs/single/mine/checkpoint.pt")
print(predictor.predict(structures).to_dataframe())
"""

from crystalframer.prediction.predictor import Predictor, load_predictor
from crystalframer.prediction.results import Predictions

__all__ = ["Predictions", "Predictor", "load_predictor"]

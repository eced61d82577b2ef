"""Prediction for crystals of any origin.

from crystalframer.prediction import load_predictor

predictor = load_predictor("runs/single/mine/checkpoint.pt")
print(predictor.predict(structures).to_dataframe())
"""

from crystalframer.prediction.loading import load_predictor
from crystalframer.prediction.predictions import Predictions
from crystalframer.prediction.predictor import Predictor

__all__ = ["Predictions", "Predictor", "load_predictor"]

"""Prediction for crystals of any origin: models read back, structures read in, results with their units."""

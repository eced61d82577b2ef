"""CrystalFramer: crystal property prediction with dynamic, interaction-aware frames."""

"""CrystalFramer: crystal property prediction with dynamic, interaction-aware frames."""

__version__ = "0.1.0"

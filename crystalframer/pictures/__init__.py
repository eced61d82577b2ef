"""Pictures of crystals, frames, attention and errors, in one style: still by matplotlib, turning by plotly."""

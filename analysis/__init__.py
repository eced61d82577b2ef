"""Tables and figures from recorded results: one short script each. Nothing here trains."""

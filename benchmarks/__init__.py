"""How the speed of the attention's implementations is measured; `pipelines/benchmark_speed.py` runs it."""

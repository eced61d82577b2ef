"""How the speed of the attention's implementations is measured; `pipelines/benchmark_speed.py` runs it."""

import crystalframer  # noqa: F401  (before torch: it sets how long waiting threads spin)

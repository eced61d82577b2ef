"""Where models registered by version 0.1 look for their loader; MLflow stores a module by name."""

from crystalframer.orchestration.tracking.models import _load_pyfunc as _load_pyfunc

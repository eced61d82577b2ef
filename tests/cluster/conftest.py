"""What the tests of clusters share."""

import pytest

from tests.cluster.hosts import require_namespaces
from tests.cluster.sweeps import Metrics, sample_ablation, undisturbed


@pytest.fixture(scope="session")
def undisturbed_ablation(tmp_path_factory: pytest.TempPathFactory) -> Metrics:
    """What the trials of the sample ablation come to without a cluster; minutes, so not where there can be none."""
    require_namespaces()
    return undisturbed(sample_ablation(), tmp_path_factory.mktemp("undisturbed"))

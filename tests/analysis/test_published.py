"""The published figures are complete, consistent and what the development data's copy says."""

from pathlib import Path

import pydantic
import pytest
import yaml

from analysis.comparison import paper_setting
from analysis.published_errors import FOLDER, Published, load_efficiency, load_published
from crystalframer.config import ModelConfig
from crystalframer.data.dataset import SPLITS
from crystalframer.resolving import build_trial

PAPERS = ("jarvis", "mp", "oqmd")


@pytest.mark.parametrize("dataset", PAPERS)
def test_tasks_and_sources_are_known(dataset: str) -> None:
    published = load_published(dataset)
    assert published is not None
    assert published.dataset == dataset
    sources = yaml.safe_load((FOLDER / "sources.yaml").read_text())
    for method in published.methods:
        assert set(method.mae) == set(published.tasks), method.name
        assert method.source in sources, method.name
        assert all(mae is None or 0 < mae < 1 for mae in method.mae.values()), method.name


def test_the_sample_is_not_the_papers() -> None:
    assert load_published("sample") is None


@pytest.mark.parametrize(
    ("model", "mae"),
    [
        (ModelConfig(frame="none"), 0.0306),
        (ModelConfig(frame="max"), 0.0263),
        (ModelConfig(frame="max", cutoff=6.0), 0.0263),  # the cutoff is ours; the paper's sum is infinite
        (build_trial({"model.preset": "lightweight"}).model, 0.0268),
        (ModelConfig(frame="max", width=64), None),
        (ModelConfig(frame="max", num_blocks=8), None),
    ],
)
def test_a_model_is_compared_with_its_own_figure(model: ModelConfig, mae: float | None) -> None:
    published = load_published("jarvis")
    assert published is not None
    assert published.mae("formation_energy", model) == mae


def test_blocks_tell_models_apart() -> None:
    published = load_published("oqmd")
    assert published is not None
    assert published.mae("bandgap", ModelConfig(num_blocks=8)) == 0.05785
    assert published.mae("bandgap", ModelConfig(num_blocks=4)) == 0.05805


def test_presets_are_recognised_by_their_settings() -> None:
    assert paper_setting(ModelConfig()) == "default"
    assert paper_setting(build_trial({"model.preset": "lightweight"}).model) == "lightweight"
    assert paper_setting(ModelConfig(frame="none", num_angl=16, s_angl=1.0, c_angl=6.0)) == "default"
    assert paper_setting(ModelConfig(num_angl=16)) is None


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="smell"):
        pydantic.TypeAdapter(Published).validate_python(
            {"dataset": "x", "source_dataset": "x", "methods": [], "smell": 1}
        )


def test_figures_equal_the_reference(shared: Path) -> None:
    reference = yaml.safe_load((shared / "reference" / "published_results.yaml").read_text())
    for dataset in PAPERS:
        published = load_published(dataset)
        assert published is not None
        expected = {
            name: dict(zip(reference[dataset]["tasks"], row["mae"], strict=True))
            for name, row in reference[dataset]["rows"].items()
        }
        assert {method.name: method.mae for method in published.methods} == expected
        assert {method.name: method.frame for method in published.methods} == {
            name: row.get("frame") for name, row in reference[dataset]["rows"].items()
        }
        for name, task in published.tasks.items():
            sizes: dict[str, int] = dict(zip(SPLITS, task.counts, strict=True))
            assert {"unit": task.unit, **sizes} == reference[dataset]["tasks"][name]
    speeds = {
        speed.name: [speed.seconds_per_epoch, speed.test_ms_per_material, float(speed.parameters)]
        for speed in load_efficiency().methods
    }
    assert speeds == {name: [float(x) for x in row] for name, row in reference["efficiency"]["rows"].items()}

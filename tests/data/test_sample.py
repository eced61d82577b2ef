"""The embedded data set is what its manifest says, splits without leakage, and equals its sources."""

import importlib.util
import json
import os
import shutil
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from crystalframer.config import DataConfig
from crystalframer.data import sample
from crystalframer.data.dataset import require_elements, select_task
from crystalframer.errors import UserError
from crystalframer.published import PUBLISHED

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_sample", ROOT / "scripts" / "build_sample.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_contents_match_the_manifest() -> None:
    dataset, manifest = sample.load_sample(), sample.read_manifest()
    assert (len(dataset), len(dataset.atomic_numbers)) == (6175, 69115) == (manifest["crystals"], manifest["atoms"])
    assert dataset.fingerprint == manifest["fingerprint"]
    assert {name: task.unit for name, task in dataset.tasks.items()} == PUBLISHED["sample"].units
    for name, task in dataset.tasks.items():
        counts = [int((task.split == code).sum()) for code in range(3)]
        assert tuple(counts) == PUBLISHED["sample"].tasks[name].counts
        assert counts == [manifest["tasks"][name][split] for split in ("train", "val", "test")], name
    assert np.isfinite(dataset.tasks["formation_energy"].targets).sum() == 3938
    assert np.isfinite(dataset.tasks["bulk_modulus"].targets).sum() == 1181
    assert np.isfinite(dataset.tasks["bandgap"].targets).sum() == 1056
    assert manifest["worst_displacement_angstrom"] == 0


def test_the_split_is_the_published_one() -> None:
    """A change of rule or of ids would silently make old and new results incomparable."""
    data = select_task(sample.load_sample(), DataConfig())
    first = {name: data.dataset.ids[rows[:3]].tolist() for name, rows in data.rows.items()}
    assert first == {
        "train": ["flla:mp-667192", "flla:mp-10321", "flla:mp-8627"],
        "val": ["flla:mp-8848", "flla:mp-28513", "flla:mp-23514"],
        "test": ["flla:mp-651268", "flla:mp-19161", "flla:mp-556003"],
    }


def test_a_material_is_in_one_split_only() -> None:
    dataset = sample.load_sample()
    seen: dict[str, set[int]] = {}
    for task in dataset.tasks.values():
        for row in np.flatnonzero(task.split >= 0):
            seen.setdefault(str(dataset.ids[row]).split(":")[1], set()).add(int(task.split[row]))
    assert len(seen) == 5698
    assert all(len(splits) == 1 for splits in seen.values())


def test_every_crystal_is_valid_and_within_the_models_elements() -> None:
    dataset = sample.load_sample()
    for row in range(0, len(dataset), 7):
        assert dataset[row].num_atoms == dataset.num_atoms[row]
    require_elements(dataset, np.arange(len(dataset)), 98)


def test_values_are_physical() -> None:
    dataset = sample.load_sample()
    gap, hull = dataset.tasks["bandgap"].targets, dataset.tasks["e_hull"].targets
    assert np.nanmin(gap) > 0
    assert np.nanmax(gap) < 10
    assert np.nanmin(hull) >= 0
    for name, low, high in (("bulk_modulus", 5, 450), ("shear_modulus", 2, 550)):
        gpa = 10 ** dataset.tasks[name].targets
        assert np.nanmin(gpa) > low
        assert np.nanmax(gpa) < high
    # silicon, as de Jong et al. list it
    row = dataset.ids.tolist().index("elastic:mp-149")
    assert dataset[row].to_structure().composition.reduced_formula == "Si"
    assert 10 ** dataset.tasks["bulk_modulus"].targets[row] == pytest.approx(83, abs=3)


@pytest.mark.skipif(not SHARED.is_dir(), reason="development data ../shared/data is not there")
def test_flla_equals_an_independent_reading_of_it() -> None:
    dataset = sample.load_sample()
    with np.load(SHARED / "flla2015_mp.npz", allow_pickle=False) as other:
        count = len(other["ids"])
        assert [f"flla:{material}" for material in other["ids"]] == dataset.ids[:count].tolist()
        assert np.array_equal(dataset.offsets[: count + 1], other["offsets"])
        atoms = slice(0, int(other["offsets"][-1]))
        assert np.array_equal(dataset.atomic_numbers[atoms], other["numbers"])
        assert np.array_equal(dataset.lattice[:count], other["lattice"])
        assert np.array_equal(dataset.frac_coords[atoms].astype(np.float32), other["frac"])
        assert np.array_equal(dataset.tasks["formation_energy"].targets[:count], other["y_e_form"])
        assert np.array_equal(dataset.tasks["e_hull"].targets[:count], other["y_ehull"])


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    for name in ("sample.npz", "sample.json"):
        shutil.copy(sample.DIRECTORY / name, tmp_path)
    assert len(sample.read_sample(tmp_path)) == 6175
    content = bytearray((tmp_path / "sample.npz").read_bytes())
    content[5000] ^= 1
    (tmp_path / "sample.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"has SHA-256 .*, expected 3257.*: reinstall the package, or .*git checkout"):
        sample.read_sample(tmp_path)
    (tmp_path / "sample.npz").unlink()
    with pytest.raises(UserError, match=r"sample.npz is missing: reinstall"):
        sample.read_sample(tmp_path)
    (tmp_path / "sample.json").unlink()
    with pytest.raises(UserError, match=r"manifest .* is missing: reinstall"):
        sample.read_sample(tmp_path)


def test_encoding_is_deterministic_and_lossless(builder: ModuleType) -> None:
    """Decode the committed file, encode it again: the same bytes (content where the zlib library is another)."""
    dataset, names = sample.load_sample(), list(sample.SOURCES)
    entries = []
    for row, id in enumerate(dataset.ids.tolist()):
        source, material = id.split(":")
        crystal = dataset[row]
        object.__setattr__(crystal, "id", material)
        targets = {name: float(dataset.tasks[name].targets[row]) for name in sample.SOURCES[source]}
        entries.append(builder.Entry(source, crystal, targets))
    assert names == ["flla", "elastic", "dielectric"]
    arrays, worst = builder.to_arrays(entries)
    assert worst == 0
    assert sample.dataset_from_arrays(arrays).fingerprint == dataset.fingerprint
    if sample.read_manifest()["zlib"] == zlib.ZLIB_RUNTIME_VERSION:
        assert builder.to_npz(arrays) == (sample.DIRECTORY / "sample.npz").read_bytes()


def test_the_builder_reads_its_two_formats(builder: ModuleType) -> None:
    lines = ["# ref", "K_VRH,G_VRH,material_id,poscar"]
    poscar = (
        "Na1 Cl1\n1.0\n3.0 0.0 0.5\n0.0 4.0 0.0\n0.0 0.25 5.0\nNa Cl\n1 1\ndirect\n0.0 0.0 0.0 Na\n0.5 0.5 0.25 Cl\n"
    )
    lines.append(f'100.0,-1.0,mp-1,"{poscar}"')
    lines.append(f'7,10.0,1.0,mp-2,"{poscar}"')  # with an index the header does not name
    first, second = builder.parse("elastic", "\n".join(lines).encode())
    assert (first.targets["bulk_modulus"], second.targets["shear_modulus"]) == (2.0, 0.0)
    assert np.isnan(first.targets["shear_modulus"])
    assert second.crystal.id == "mp-2"
    assert first.crystal.lattice.tolist() == [[3, 0, 0.5], [0, 4, 0], [0, 0.25, 5]]
    assert first.crystal.frac_coords.tolist() == [[0, 0, 0], [0.5, 0.5, 0.25]]
    assert first.crystal.atomic_numbers.tolist() == [11, 17]


def test_the_builder_refuses_other_sources(
    builder: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert builder.main([str(tmp_path / "none.tar.gz")]) == 2
    assert "does not exist: give the path of matminer-0.4.2.tar.gz" in capsys.readouterr().err
    (tmp_path / "flla_2015.csv").write_text("# something else\n")
    assert builder.main([str(tmp_path)]) == 2
    assert "holds no elastic_tensor.csv" in capsys.readouterr().err
    for name in ("elastic_tensor.csv", "dielectric_constant.csv"):
        (tmp_path / name).write_text("# something else\n")
    assert builder.main([str(tmp_path)]) == 2
    assert "flla_2015.csv in" in (message := capsys.readouterr().err)
    assert "expected 35b8dbc0" in message


@pytest.mark.slow
@pytest.mark.skipif(
    "CRYSTALFRAMER_SAMPLE_SOURCE" not in os.environ,
    reason="CRYSTALFRAMER_SAMPLE_SOURCE does not name matminer-0.4.2.tar.gz",
)
def test_a_rebuild_from_the_sources_gives_the_committed_file(builder: ModuleType) -> None:
    content, manifest = builder.build(Path(os.environ["CRYSTALFRAMER_SAMPLE_SOURCE"]))
    committed = sample.read_manifest()
    assert manifest["fingerprint"] == committed["fingerprint"]
    if manifest["zlib"] == committed["zlib"]:
        assert content == (sample.DIRECTORY / "sample.npz").read_bytes()
        assert json.loads(json.dumps(manifest)) == committed

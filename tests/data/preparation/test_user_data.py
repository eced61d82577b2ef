"""Users' own crystals: every route gives the same data set, by name; what cannot be used has a reason."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.db import connect
from pymatgen.core.structure import Structure

from crystalframer.cli import main as cli_main
from crystalframer.config import DataConfig
from crystalframer.data import registry, store
from crystalframer.data.dataset import CrystalDataset
from crystalframer.data.preparation.sanity import find_duplicates, reduced_formula, why_unphysical
from crystalframer.data.preparation.splits import split_by_formula
from crystalframer.data.preparation.user_data import OwnData, own_name, prepare_own
from crystalframer.data.structures.reading import by_kind
from crystalframer.environment import data_folder
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from pipelines import prepare_data
from tests.fixtures.own_data import (
    alignn_folder,
    cif,
    energy,
    extxyz,
    poscar,
    rejects_of,
    small_crystals,
    structure,
)
from tests.fixtures.structure_texts import cif_text, cubic

CRYSTALS = small_crystals(30)
TARGETS = {crystal.id: energy(crystal) for crystal in CRYSTALS}


@pytest.fixture(autouse=True)
def data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRYSTALFRAMER_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def prepared(source: Path, **options: Any) -> CrystalDataset:
    directory, _ = prepare_own(OwnData(source, **options))
    return store.read_store(directory)


def assert_is_ours(dataset: CrystalDataset, task: str = "energy") -> None:
    """Compare ids, crystals (coordinates up to the digits that were written) and targets."""
    assert dict(zip(dataset.ids.tolist(), dataset.tasks[task].targets.tolist(), strict=True)) == pytest.approx(TARGETS)
    ours = {crystal.id: crystal for crystal in CRYSTALS}
    for row in range(len(dataset)):
        crystal = dataset[row]
        assert crystal.volume == pytest.approx(ours[crystal.id].volume, rel=1e-6)
        assert sorted(crystal.atomic_numbers.tolist()) == sorted(ours[crystal.id].atomic_numbers.tolist())


def test_a_folder_as_alignn_has_it(tmp_path: Path) -> None:
    for suffix in (".vasp", ".cif"):
        dataset = prepared(alignn_folder(tmp_path / f"alignn{suffix}", CRYSTALS, suffix), name="mine")
        assert_is_ours(dataset, "target")
        assert dataset.tasks["target"].unit == "unspecified"


def test_a_folder_with_a_table_of_several_targets_and_units(tmp_path: Path) -> None:
    folder = tmp_path / "crystals"
    folder.mkdir()
    rows = ["id,energy (eV/atom),bandgap [eV],split,comment"]
    for number, crystal in enumerate(CRYSTALS):
        (folder / f"{crystal.id}.cif").write_text(cif(crystal))
        bandgap = number / 10 if number % 3 else ""
        rows.append(f"{crystal.id},{energy(crystal)},{bandgap},{('train', 'val', 'test')[number % 3]},x")
    (folder / "properties.csv").write_text("\n".join(rows))
    dataset = prepared(folder)
    assert_is_ours(dataset)
    assert list(dataset.tasks) == ["energy", "bandgap"]
    assert {name: task.unit for name, task in dataset.tasks.items()} == {"energy": "eV/atom", "bandgap": "eV"}
    assert np.isnan(dataset.tasks["bandgap"].targets).sum() == 10
    by_id = dict(zip(dataset.ids.tolist(), dataset.tasks["energy"].split.tolist(), strict=True))
    assert [by_id[crystal.id] for crystal in CRYSTALS] == [number % 3 for number in range(30)]
    assert store.read_manifest(data_folder() / "crystals")["split"] == "given in the data"


def test_a_crystal_without_a_target_does_not_take_the_place_of_one_that_has_it(tmp_path: Path) -> None:
    path = tmp_path / "frames.extxyz"
    twice = [CRYSTALS[0], *CRYSTALS[:6]]
    values: list[dict[str, Any]] = [{"id": crystal.id, "energy": energy(crystal)} for crystal in twice]
    values[0] = {"id": "without"}
    path.write_text(extxyz(twice, values))
    assert prepared(path).ids.tolist() == [crystal.id for crystal in CRYSTALS[:6]]


def test_extended_xyz(tmp_path: Path) -> None:
    path = tmp_path / "frames.extxyz"
    path.write_text(extxyz(CRYSTALS, [{"id": c.id, "energy": energy(c), "config_type": "bulk"} for c in CRYSTALS]))
    dataset = prepared(path)
    assert_is_ours(dataset)
    assert list(dataset.tasks) == ["energy"]


def test_an_ase_database(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    with connect(path) as database:  # type: ignore[no-untyped-call]
        for crystal in CRYSTALS:
            atoms = Atoms(crystal.atomic_numbers, cell=crystal.lattice, scaled_positions=crystal.frac_coords, pbc=True)
            database.write(atoms, energy_dft=energy(crystal), data={"id": crystal.id, "matrix": [1, 2]})
    assert_is_ours(prepared(path), "energy_dft")


@pytest.mark.parametrize("by_id", [True, False])
def test_pymatgen_json(tmp_path: Path, by_id: bool) -> None:
    path = tmp_path / "records.json"
    records = {c.id: {"structure": structure(c), "energy": energy(c)} for c in CRYSTALS}
    path.write_text(json.dumps(records if by_id else [{"material_id": id, **r} for id, r in records.items()]))
    assert_is_ours(prepared(path))


@pytest.mark.parametrize("form", ["dictionary", "json", "cif", "poscar", "csv"])
def test_a_table_with_a_structure_column(tmp_path: Path, form: str) -> None:
    convert = {"dictionary": structure, "json": lambda c: json.dumps(structure(c)), "poscar": poscar}.get(form, cif)
    frame = pd.DataFrame(
        {
            "cif" if form in ("cif", "csv") else "structure": [convert(crystal) for crystal in CRYSTALS],
            "material_id": [crystal.id for crystal in CRYSTALS],
            "energy": [energy(crystal) for crystal in CRYSTALS],
            "formula": ["x"] * len(CRYSTALS),
        }
    )
    path = tmp_path / ("table.csv" if form == "csv" else "table.parquet")
    if form == "csv":
        frame.to_csv(path, index=False)
    else:
        if form == "dictionary":  # parquet has no empty dictionaries
            for record in frame["structure"]:
                for site in record["sites"]:
                    del site["properties"]
        frame.to_parquet(path)
    dataset = prepared(path)
    assert_is_ours(dataset)
    assert list(dataset.tasks) == ["energy"]


def test_a_table_whose_index_holds_the_ids(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"structure": [json.dumps(structure(c)) for c in CRYSTALS], "energy": [energy(c) for c in CRYSTALS]},
        index=[c.id for c in CRYSTALS],
    )
    frame.to_parquet(tmp_path / "table.parquet")
    assert_is_ours(prepared(tmp_path / "table.parquet"))


def test_partners_that_are_missing_are_rejects(tmp_path: Path) -> None:
    folder = alignn_folder(tmp_path / "mine", CRYSTALS)
    table = folder / "id_prop.csv"
    lines = table.read_text().splitlines()
    lonely = lines[0].split(",")[0].removesuffix(".vasp")
    nan = lines[1].split(",")[0]
    table.write_text("\n".join([f"{nan},nan", *lines[2:], "ghost.vasp,1.0", lines[2], "broken.vasp,1,2", ""]))
    (folder / "broken.vasp").write_text("no crystal")
    dataset = prepared(folder)
    assert len(dataset) == 28
    rejects = rejects_of(data_folder() / "mine")
    assert rejects[lonely] == "no row of the targets names this structure"
    assert rejects[nan.removesuffix(".vasp")] == "it has no target that is a finite number"
    assert rejects["ghost.vasp"] == "no structure belongs to this row of the targets"
    assert "second row" in rejects[lines[2].split(",")[0]]
    assert rejects["broken"]
    assert store.read_manifest(data_folder() / "mine")["rejects"] == len(rejects) == 5


def test_rows_name_files_in_several_ways(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    names = ["a/POSCAR", "b/POSCAR", "c/x.cif", "d.cif"]
    for name, crystal in zip(names, CRYSTALS, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(cif(crystal) if name.endswith("cif") else poscar(crystal))
    table = tmp_path / "t.csv"
    table.write_text("file;energy\na/POSCAR;1\nb/POSCAR;2\nx.cif;3\nd;4\n")
    dataset = prepared(folder, targets=table)
    assert dict(zip(dataset.ids.tolist(), dataset.tasks["energy"].targets.tolist(), strict=True)) == {
        "a/POSCAR": 1.0,
        "b/POSCAR": 2.0,
        "x": 3.0,
        "d": 4.0,
    }


def test_duplicates_and_unphysical_crystals_are_left_out(tmp_path: Path) -> None:
    first, second = CRYSTALS[0], next(c for c in CRYSTALS[1:] if c.num_atoms > 2)
    angle = 0.7
    turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    order = np.random.default_rng(0).permutation(second.num_atoms)
    cell = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1]])
    near = [0.3 / np.linalg.norm(second.lattice[0]), 0, 0]
    variants = {
        "again": first,
        "turned": Crystal(second.lattice @ turn, second.frac_coords, second.atomic_numbers),
        "moved": Crystal(second.lattice, (second.frac_coords + 0.123)[order], second.atomic_numbers[order]),
        "recut": Crystal(cell @ second.lattice, second.frac_coords @ np.linalg.inv(cell), second.atomic_numbers),
        "noisy": Crystal(second.lattice * 1.0005, second.frac_coords + 1e-4, second.atomic_numbers),
        "stretched": Crystal(second.lattice * 1.03, second.frac_coords, second.atomic_numbers),
        "squeezed": Crystal(second.lattice * 0.2, second.frac_coords, second.atomic_numbers),
        "bohr": Crystal(second.lattice * 30, second.frac_coords, second.atomic_numbers),
        "overlapping": Crystal(
            second.lattice,
            np.vstack([second.frac_coords, second.frac_coords[0] + near]),
            np.append(second.atomic_numbers, 1),
        ),
    }
    crystals = [*CRYSTALS, *(replace(crystal, id=id) for id, crystal in variants.items())]
    path = tmp_path / "frames.extxyz"
    path.write_text(extxyz(crystals, [{"id": c.id, "energy": number} for number, c in enumerate(crystals)]))
    dataset = prepared(path)
    rejects = rejects_of(data_folder() / "frames")
    assert set(dataset.ids.tolist()) == {*TARGETS, "stretched"}
    for id in ("turned", "moved", "recut", "noisy"):
        assert rejects[id] == f"it is the same crystal as {second.id!r}, which is kept", id
    assert repr(first.id) in rejects["again"]
    assert "overlap" in rejects["overlapping"]
    assert "per atom" in rejects["bohr"]
    assert "overlap" in rejects["squeezed"] or "per atom" in rejects["squeezed"]
    assert len(prepared(path, keep_duplicates=True)) == len(dataset) + 5


def test_crystals_that_differ_are_no_duplicates() -> None:
    assert find_duplicates(CRYSTALS) == {}
    nacl = Structure.from_spacegroup("Fm-3m", np.eye(3) * 5.6, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    swapped = nacl.copy()
    swapped.replace_species({"Na": "Cl", "Cl": "Na"})
    distorted = nacl.copy()
    distorted.translate_sites([0], [0.05, 0, 0])
    crystals = [Crystal.from_structure(s) for s in (nacl, swapped, distorted, nacl)]
    assert find_duplicates(crystals) == {1: 0, 3: 0}  # rock salt with the ions swapped is rock salt
    assert reduced_formula(crystals[0]) == "Na1Cl1"
    mixed = Crystal.from_structure(Structure(np.eye(3) * 4, [{"Na": 0.5, "K": 0.25}], [[0, 0, 0]]))
    assert reduced_formula(mixed) == "Na2K1"
    assert why_unphysical(crystals[0]) == ""


def test_a_seeded_split_keeps_a_material_together_and_its_shares() -> None:
    formulas = [f"A{k // 2}" for k in range(4000)]
    split = split_by_formula(formulas, 0, 0.7, 0.2)
    assert (split[::2] == split[1::2]).all()
    assert np.bincount(split) / 4000 == pytest.approx([0.7, 0.2, 0.1], abs=0.03)
    assert (split_by_formula(formulas[:1000], 0, 0.7, 0.2) == split[:1000]).all()  # more crystals move none
    assert (split_by_formula(formulas, 1, 0.7, 0.2) != split).mean() > 0.3
    few = split_by_formula([f"A{k}" for k in range(5)], 3, 0.8, 0.1)
    assert sorted(np.bincount(few).tolist()) == [1, 1, 3]


def test_a_split_given_by_id(tmp_path: Path) -> None:
    folder = alignn_folder(tmp_path / "mine", CRYSTALS)
    table = tmp_path / "split.csv"
    names = [path.stem for path in sorted(folder.glob("*.vasp"))]
    lines = [f"{name},{'train' if k else 'test'}" for k, name in enumerate(names[:20])]
    table.write_text("\n".join(["id,split", *lines]))
    dataset = prepared(folder, split=table)
    split = dict(zip(dataset.ids.tolist(), dataset.tasks["target"].split.tolist(), strict=True))
    assert [split[name] for name in names] == [2] + [0] * 19 + [-1] * 10
    table.write_text("nobody,train\n")
    with pytest.raises(UserError, match="none of its ids"):
        prepared(folder, split=table)
    table.write_text("x,training set\n")
    with pytest.raises(UserError, match="line 1: expected `id,split`"):
        prepared(folder, split=table)


def test_disordered_crystals_come_through(tmp_path: Path) -> None:
    folder = tmp_path / "alloys"
    folder.mkdir()
    rows = []
    for k, share in enumerate((0.2, 0.4, 0.6, 0.8)):
        species: list[Any] = [{"Na": share, "K": 1 - share}, "Cl"]
        alloy = Structure(np.eye(3) * (4 + k / 10), species, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]))
        alloy.to(str(folder / f"s{k}.cif"))
        rows.append(f"s{k}.cif,{share}")
    (folder / "id_prop.csv").write_text("\n".join(rows))
    dataset = prepared(folder)
    assert dataset.mixture is not None
    weights = {str(dataset.ids[row]): dataset[row].mixture for row in range(4)}
    mixture = weights["s1"]
    assert mixture is not None
    assert mixture.weights.tolist() == pytest.approx([0.4, 0.6])


def test_the_registry_knows_own_data_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"unknown data set 'perovskites' \(known.*--name perovskites"):
        registry.load_dataset("perovskites")
    prepared(alignn_folder(tmp_path / "perovskites", CRYSTALS), units={"target": "eV/atom"})
    assert registry.own_datasets() == ["perovskites"]
    assert cli_main(["data"]) == 0
    assert "perovskites: 30 crystals" in capsys.readouterr().out
    assert registry.tasks_of("perovskites") == {"target": "eV/atom"}
    data = registry.load_task(DataConfig(dataset="perovskites", task="target"))
    assert data.unit == "eV/atom"
    assert len(data.rows["train"]) == 24
    with pytest.raises(UserError, match=r"did you mean 'perovskites'"):
        registry.check_dataset("perovskite")
    with pytest.raises(UserError, match=r"no task 'targets' \(did you mean 'target'"):
        registry.check_names("perovskites", "targets")


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    folder = alignn_folder(tmp_path / "mine", CRYSTALS[:4])
    for options, message in (
        ({"units": {"bandgap": "eV"}}, "task 'bandgap', which is not in the data"),
        ({"name": "jarvis"}, "published data set"),
        ({"name": "a/b"}, "no name for a data set"),
        ({"train": 0.9, "val": 0.2}, "leave some to test"),
        ({"targets": tmp_path / "absent.csv"}, "cannot read the targets"),
        ({"units": {"target": "%"}}, "no letters or digits"),
    ):
        with pytest.raises(UserError, match=message):
            prepared(folder, **options)
    with pytest.raises(UserError, match="does not exist"):
        prepared(tmp_path / "absent.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no structure file"):
        prepared(tmp_path / "empty")
    (tmp_path / "bad.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="cannot be read"):
        prepared(tmp_path / "bad.parquet")
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(UserError, match="has columns x, expected one of structure"):
        prepared(tmp_path / "x.parquet")
    assert own_name(OwnData(Path("/data/My crystals.v2.json"))) == "My_crystals"
    assert registry.own_datasets() == []


def test_nothing_usable_leaves_the_reasons_and_no_store(tmp_path: Path, data_directory: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.cif").write_text("nothing")
    (folder / "id_prop.csv").write_text("")
    with pytest.raises(UserError, match=r"none of the 1 entries can be used, first 'a'"):
        prepared(folder)
    assert json.loads((data_directory / "mine.rejects.jsonl").read_text())["id"] == "a"
    assert registry.own_datasets() == []


def test_crystals_without_a_table_are_told_how_to_name_one(tmp_path: Path, data_directory: Path) -> None:
    folder = alignn_folder(tmp_path / "mine", CRYSTALS)
    (folder / "id_prop.csv").rename(tmp_path / "elsewhere.csv")
    with pytest.raises(UserError, match="no table of targets lies beside the crystals: name one with --targets FILE"):
        prepared(folder)


def test_the_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = alignn_folder(tmp_path / "mine", CRYSTALS)
    assert prepare_data.main([str(folder), "--name", "set_1", "--unit", "target=eV/atom", "--split", "5"]) == 0
    out = capsys.readouterr().out
    assert "data set set_1: 30 crystals" in out
    assert "crystalframer train --dataset set_1 --task target" in out
    assert store.read_manifest(data_folder() / "set_1")["split"]["seed"] == 5
    assert prepare_data.main([str(folder), "--unit", "target"]) == 2
    assert "expected TASK=UNIT" in capsys.readouterr().err
    assert prepare_data.main(["no/such/folder"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_what_is_doubtful_is_told_once_a_kind(
    tmp_path: Path, data_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for number, (symbols, site) in enumerate([("Mg O", ". . ."), ("Ca O", ". . ."), ("Sr O", "0 0 0")]):
        one, other = symbols.split()
        sites = f"{one}1 {one} {site}\n{other}1 {other} 0.5 0.5 0.5"
        (folder / f"m{number}.cif").write_text(cif_text(cubic(4.2 + 0.2 * number), sites))
    (folder / "id_prop.csv").write_text("m0,1\nm1,2\nm2,3\n")
    assert cli_main(["prepare", str(folder), "--unit", "target=1"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("doubtful: ")]
    assert told == ["doubtful: 2 structures, the first 'm0': a coordinate is given as '.', which is read as 0"]
    assert store.read_manifest(data_directory / "mine")["notes"] == told


def test_kinds_of_warnings() -> None:
    warned = [(f"m{k}", f"the label 'O{k}' stands {k + 0.5} Å away") for k in range(1200)]
    assert by_kind([*warned, ("x", "else")]) == [
        "1,200 structures, the first 'm0': the label 'O0' stands 0.5 Å away",
        "1 structure, 'x': else",
    ]
    many = [("a", f"kind {letter}") for letter in "abcdefghijkl"]
    assert len(by_kind(many)) == 11
    assert by_kind(many)[-1] == "2 more, of 2 further kinds"
    rare = [("a", "Fe in fewer than 5 training crystals"), ("b", "K, Rb in fewer than 5 training crystals")]
    assert by_kind(rare) == ["2 structures, the first 'a': Fe in fewer than 5 training crystals"]
    assert by_kind([]) == []

"""Spreadsheets are read as the same table in CSV is; what they can get wrong has one sentence."""

import datetime as dt
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import openpyxl
import pytest
from openpyxl.worksheet.worksheet import Worksheet

from crystalframer import cli
from crystalframer.data.preparation import spreadsheet
from crystalframer.data.preparation.targets import read_splits, read_targets
from crystalframer.data.preparation.user_data import OwnData, prepare_own
from crystalframer.data.store import read_store
from crystalframer.errors import UserError
from tests.fixtures.own_data import cif, energy, poscar, rejects_of, small_crystals

HEADER = ["id", "hardness (GPa)", "gap", "split"]


@pytest.fixture(autouse=True)
def own_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep each test's stores apart."""
    monkeypatch.setenv("CRYSTALFRAMER_DATA", str(tmp_path / "data"))


def sheet(path: Path, *rows: Sequence[object], change: Callable[[openpyxl.Workbook], object] | None = None) -> Path:
    """Write a file of one sheet, and what else `change` does to it."""
    book = openpyxl.Workbook()
    page = book.active
    assert isinstance(page, Worksheet)
    for row in rows:
        page.append(list(row))
    if change is not None:
        change(book)
    book.save(path)
    return path


def first(book: openpyxl.Workbook) -> Worksheet:
    return book.worksheets[0]


def test_a_spreadsheet_is_read_as_the_same_table_in_csv(tmp_path: Path) -> None:
    rows: list[list[object]] = [
        [7, 12.5, 1, "train"],
        ["b", None, -3e-4, "test"],
        ["c", "4", True, None],
        [None] * 4,
        ["d", "#N/A", 0.1, "val"],
    ]
    found = read_targets(sheet(tmp_path / "t.xlsx", [None] * 4, HEADER, *rows))
    text = "id,hardness (GPa),gap,split\n7,12.5,1,train\nb,,-3e-4,test\nc,4,true,\nd,,0.1,val\n"
    (tmp_path / "t.csv").write_text(text)
    expected = read_targets(tmp_path / "t.csv")
    assert (found.names, found.units) == (expected.names, expected.units) == (["hardness", "gap"], {"hardness": "GPa"})
    assert str(found.rows) == str(expected.rows)  # NaN differs from itself
    assert found.notes == [
        "t.xlsx: 1 numbers in column B are text (first B5)",
        "t.xlsx: 1 cells of column B hold no number and count as empty (first B7: '#N/A')",
    ]


def test_a_folder_and_its_spreadsheet_become_the_store_of_its_csv(tmp_path: Path) -> None:
    crystals = small_crystals(12)
    rows = [[crystal.id, energy(crystal)] for crystal in crystals[:-1]]
    fingerprints = []
    for suffix in ("xlsx", "csv"):
        folder = tmp_path / suffix / "mine"
        folder.mkdir(parents=True)
        for crystal in crystals:
            (folder / f"{crystal.id}.vasp").write_text(poscar(crystal), encoding="utf-8")
        if suffix == "xlsx":
            sheet(folder / "data.xlsx", ["id", "energy"], *rows)
            (folder / "~$data.xlsx").write_bytes(b"a lock")
        else:
            lines = [f"{name},{value!r}" for name, value in rows]
            (folder / "data.csv").write_text("\n".join(["id,energy", *lines]), encoding="utf-8")
        directory, manifest = prepare_own(OwnData(folder))
        assert rejects_of(directory) == {crystals[-1].id: "no row of the targets names this structure"}
        fingerprints.append(manifest["fingerprint"])
    assert fingerprints[0] == fingerprints[1]


def test_a_spreadsheet_may_hold_the_structures_and_the_split(tmp_path: Path) -> None:
    crystals = small_crystals(6)
    rows = [[crystal.id, cif(crystal), energy(crystal)] for crystal in crystals]
    path = sheet(tmp_path / "mine.xlsx", ["id", "cif", "energy"], *rows)
    parts = ["train", "train", "train", "train", "val", "test"]
    split = sheet(
        tmp_path / "split.xlsx", ["id", "split"], *([c.id, part] for c, part in zip(crystals, parts, strict=True))
    )
    assert cli.main(["prepare", str(path), "--split", str(split), "--unit", "energy=eV"]) == 0
    dataset = read_store(tmp_path / "data" / "mine")
    assert dataset.ids.tolist() == [crystal.id for crystal in crystals]
    assert dataset.tasks["energy"].split.tolist() == [0, 0, 0, 0, 1, 2]
    assert dataset.tasks["energy"].targets.tolist() == [energy(crystal) for crystal in crystals]
    assert read_splits(split)[crystals[4].id] == 1


def test_a_table_as_chemists_keep_it_names_files_by_their_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, crystals = tmp_path / "crystals", small_crystals(12)
    folder.mkdir()
    for crystal in crystals:
        (folder / f"{crystal.id}.cif").write_text(cif(crystal), encoding="utf-8")
    rows = [[n, f"crystals/{c.id}.cif", energy(c), "DFT"] for n, c in enumerate(crystals, 1)]
    path = sheet(tmp_path / "t.xlsx", ["No.", "CIF", "bulk modulus / GPa", "measured by"], *rows)
    table = read_targets(path)
    assert (table.key, table.names, table.units) == ("CIF", ["No.", "bulk_modulus"], {"bulk_modulus": "GPa"})
    directory, _ = prepare_own(OwnData(folder, targets=path))
    assert rejects_of(directory) == {}
    other = sheet(tmp_path / "other.xlsx", ["No.", "bulk modulus / GPa"], *([n, v] for n, _, v, _ in rows))
    assert cli.main(["prepare", str(folder), "--targets", str(other), "--name", "other"]) == 2
    assert "; names are read from its column 'No.', such as '1'; all reasons" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda book: first(book).merge_cells("B2:B3"), "the cells B2:B3 are merged, expected a value in each cell"),
        (lambda book: book.create_sheet("more").append([1]), "has 2 sheets that hold something ('Sheet', 'more')"),
        (lambda book: first(book).delete_rows(1, 9), "has no visible sheet with content, expected one"),
        (
            lambda book: setattr(first(book)["B2"], "value", "=1+1"),
            "holds 1 formulas without a value (first B2): open it",
        ),
        (lambda book: setattr(first(book)["B2"], "value", "3,5"), "cell B2: '3,5' is text with a comma"),
        (lambda book: setattr(first(book)["B2"], "value", "1 234,5"), "cell B2: '1 234,5' is text with a comma"),
        (lambda book: setattr(first(book)["XFD1048576"], "value", 1), "reaches to XFD1048576, at most 2,000,000 cells"),
    ],
)
def test_what_a_spreadsheet_gets_wrong_has_one_sentence(
    change: Callable[[openpyxl.Workbook], object], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.vasp").write_text(poscar(small_crystals(1)[0]), encoding="utf-8")
    path = sheet(tmp_path / "t.xlsx", ["id", "hardness"], ["a", 1.5], ["b", 2.5], change=change)
    assert cli.main(["prepare", str(tmp_path / "mine"), "--targets", str(path)]) == 2
    message = capsys.readouterr().err
    assert problem in message
    assert message.count("\n") == 1
    assert not list((tmp_path / "data").rglob("*"))


def test_hidden_sheets_and_dates_do_not_count(tmp_path: Path) -> None:
    def hide(book: openpyxl.Workbook) -> None:
        notes = book.create_sheet("notes")
        notes.append(["do not read"])
        notes.sheet_state = "hidden"

    path = sheet(tmp_path / "t.xlsx", ["id", "hardness"], ["a", 1.5], [dt.datetime(2024, 1, 2), 2.5], change=hide)  # noqa: DTZ001
    table = read_targets(path)
    assert [row.id for row in table.rows] == ["a", "2024-01-02 00:00:00"]
    assert table.notes == ["t.xlsx: hidden sheets are passed over: 'notes'"]


def test_titles_are_passed_over_and_what_is_hidden_is_said(tmp_path: Path) -> None:
    def change(book: openpyxl.Workbook) -> None:
        page = first(book)
        page.merge_cells("A1:B1")
        page.row_dimensions[5].hidden = True
        page.column_dimensions["B"].hidden = True

    rows: list[list[object]] = [["My crystals"], [None], ["id", "hardness"], ["a", 1.5], ["b", 2.5]]
    table = read_targets(sheet(tmp_path / "t.xlsx", *rows, change=change))
    assert [(row.id, row.targets) for row in table.rows] == [("a", {"hardness": 1.5}), ("b", {"hardness": 2.5})]
    assert table.notes == [
        "t.xlsx: passed over as a title: 'My crystals'",
        "t.xlsx: hidden rows and columns count like the others: 5, B",
    ]


def test_a_row_of_units_is_no_cell_without_a_number(tmp_path: Path) -> None:
    rows: list[list[object]] = [["name", "hardness"], [None, "GPa"], ["a", 1.5], ["b", "soft"]]
    table = read_targets(sheet(tmp_path / "t.xlsx", *rows))
    assert (table.units, [row.id for row in table.rows]) == ({"hardness": "GPa"}, ["a", "b"])
    assert table.notes == [
        "t.xlsx: 1 cells of column B hold no number and count as empty (first B4: 'soft')",
        "t.xlsx: row 2 is taken for the units",
    ]


def test_what_would_take_hours_is_refused_or_read_at_once(tmp_path: Path) -> None:
    path = sheet(
        tmp_path / "t.xlsx", ["id", "hardness"], ["a", 1.5], change=lambda book: first(book).merge_cells("D4:E5")
    )
    started = time.process_time()
    for old, new in (
        (b"D4:E5", b"D4:XFD1000000"),  # openpyxl makes every cell of it
        (b"</worksheet>", b"</worksheet><!-- " + b"<f " * 300_000 + b"-->"),
    ):
        changed = tmp_path / "changed.xlsx"
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as target:
            for name in source.namelist():
                content = source.read(name)
                assert old in content or not name.endswith("sheet1.xml")
                target.writestr(name, content.replace(old, new) if name.endswith("sheet1.xml") else content)
        with pytest.raises(UserError, match=r"merges more than 2,000,000 cells|are merged, expected a value"):
            read_targets(changed)
    for text in (
        "id,a" + " " * 100_000 + "b\nx,1\n",
        "id,a\nx,1" + " " * 100_000 + "b\n",
        "id,a\n,m" + "/a" * 50_000 + "\t~\nx,1\n",
    ):
        (tmp_path / "t.csv").write_text(text)
        read_targets(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("id," + ",".join(f"t{k}" for k in range(20_000)) + "\nx" + ",1" * 20_000 + "\n")
    assert len(read_targets(tmp_path / "t.csv").names) == 20_000
    assert time.process_time() - started < 20


def test_files_that_are_no_spreadsheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.xlsx"
    with pytest.raises(UserError, match=r"t\.xlsx does not exist: check its name"):
        read_targets(path)
    path.write_text("id,hardness\na,1\n")
    with pytest.raises(UserError, match=r"is no \.xlsx file, or damaged, or protected by a password"):
        read_targets(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "no workbook")
    with pytest.raises(UserError, match="cannot be read as a spreadsheet"):
        read_targets(path)
    sheet(path, ["id", "hardness"], ["a", 1.5])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"is no \.xlsx file, or damaged"):
        read_targets(path)
    with pytest.raises(UserError, match=r"t\.xls is not read: save it as \.xlsx or \.csv"):
        read_targets(path.with_suffix(".xls"))
    path.write_bytes(content)
    monkeypatch.setattr(spreadsheet, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match=r"MiB unpacked, at most 0 are read: save the table as \.csv"):
        read_targets(path)

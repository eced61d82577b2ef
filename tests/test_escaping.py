"""Text from outside is harmless in every format that is written."""

import csv
import io

import pandas as pd
import pytest

from analysis.documents import Document, Table, to_csv, to_html, to_latex, to_markdown
from crystalframer.escaping import for_csv, for_figures, for_latex, for_markdown

HOSTILE = '=HYPERLINK("http://x.y")'
SCRIPT = "<script>alert(1)</script>"


def document(text: str) -> Document:
    """A document that holds a text everywhere."""
    table = Table(text, ["id", text], [["a", text]], [text], frozenset({(0, 1)}))
    return Document(text, [table], [text], [text], records=pd.DataFrame({"id": [text], text: [-1.5]}))


@pytest.mark.parametrize("text", [HOSTILE, "+1", "-1+1|cmd", "@SUM(1)", "\t=1", "\r=1"])
def test_no_cell_or_header_of_a_csv_is_a_formula(text: str) -> None:
    header, row = csv.reader(io.StringIO(to_csv(document(text))))
    assert not [cell for cell in (*header, row[0]) if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert row[1] == "-1.5"  # a number stays one
    assert for_csv("line\nbreak") == "line break"


def test_markdown_holds_no_markup_of_others() -> None:
    text = to_markdown(document(f"{SCRIPT} a|b\n# heading [x](javascript:y) *b* _i_ formation_energy < 3"))
    assert "\\<script>" in text
    assert "<script" not in text.replace("\\<", "")
    assert "\n# heading" not in text
    assert "a\\|b" in text
    assert "\\[x\\](" in text
    assert "formation_energy < 3" in text
    assert for_markdown("_i_ *b*") == "\\_i\\_ \\*b\\*"


def test_latex_holds_no_command_of_others() -> None:
    text = to_latex(document("\\input{/etc/passwd} $x$ 5 % a_b #1 ~^\nnew"))
    assert "\\input" not in text
    assert r"\textbackslash{}input\{/etc/passwd\} \$x\$ 5 \% a\_b \#1 \textasciitilde{}\textasciicircum{} new" in text
    assert for_latex("{}") == r"\{\}"


def test_html_holds_no_element_of_others() -> None:
    assert "<script" not in to_html(document(SCRIPT))
    assert "<script" not in to_html(document(f"`{SCRIPT}`"))


def test_dollar_signs_are_no_formulas_in_figures() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.text(0, 0, for_figures("a $\\frac b$"))
    figure.draw_without_rendering()  # a formula would not parse

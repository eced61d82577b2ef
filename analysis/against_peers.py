"""Our rows against other methods' predictions, on the same test crystals: which differences are real, and where.

    python analysis/against_peers.py --results results/mbj_frames --peers coGN=coGN.csv.zip ALIGNN=alignn.csv
    python analysis/against_peers.py --sweep mbj_frames --peers contributions/*/AI-*mbj_bandgap*.csv.zip
    python analysis/against_peers.py --results results/mbj_frames       # with the peers that were recorded there

reads tables with the columns id and prediction (the JARVIS leaderboard's zipped CSV, a plain CSV, a Parquet file), and
writes analysis/output/<sweep>/against_peers.{md,tex,html,csv}.
"""

import argparse
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.comparison import Comparison
from analysis.documents import Document, Table, to_markdown
from analysis.items import Context, Item, Product, context_of
from analysis.peers import Against, Group, Method, Peer, against, groups, methods_of, read_peer, recorded_peers
from analysis.results import MissingError, add_arguments, shown
from analysis.tables.significance_table import p_text
from analysis.uncertainty import ALPHA, sign_test
from crystalframer.command_line import HelpFormatter, reports_user_errors
from crystalframer.errors import UserError
from crystalframer.statistics import Interval, mean_interval

NAME = "against_peers"
HEADINGS = (
    "ours − peer", "crystals", "ours", "peer", "difference", "95 % interval", "better on", "sign test p", "bootstrap p",
    "Holm p", "is",
)  # fmt: skip
MAY_BE_CHANCE = "may be chance"


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Compare as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    add_arguments(parser)
    parser.add_argument(
        "--peers", nargs="+", metavar="[NAME=]FILE", help="tables of id, prediction (default: those recorded)"
    )
    arguments = parser.parse_args(argv)
    context = context_of(arguments)
    peers = [read_peer(text) for text in arguments.peers or ()] or recorded_peers(context.results)
    if not peers:
        raise UserError(f"{context.sweep} has no other method's predictions recorded: give some with --peers FILE")
    document = build(context, peers)
    product = context.table(document, NAME)
    print(to_markdown(document))
    for path in product.tables:
        print(f"written: {shown(path)}")
    return 0


def produce(context: Context) -> Product:
    """Compare with the peers that the results bring along."""
    peers = recorded_peers(context.results)
    if not peers:
        command = f"crystalframer export {context.sweep} --output results/{context.sweep} --peers FILES"
        raise MissingError("no other method's predictions are recorded beside these results", command)
    return context.table(build(context, peers), NAME)


def build(context: Context, peers: Sequence[Peer]) -> Document:
    """Return the tables of the main comparison: every row against every peer, and where the best one differs.

    Raises:
        MissingError: there are no results.
        UserError: there are no test predictions, or a peer predicts none of the test crystals.
    """
    comparison = context.main
    methods = methods_of(comparison)
    if not methods:
        raise UserError(f"{context.sweep} has no test predictions to compare: run `{context.command}` first")
    compared = against(methods, peers)
    best = min(methods, key=lambda method: float(method.errors.absolute.mean()))
    where = [(peer, _where(comparison, best, peer, context.results.formulas)) for peer in peers]
    notes = [
        "Errors of the same test crystals, paired; a negative difference: ours is better. Interval and bootstrap p: "
        "crystals drawn anew. Holm p: corrected for every row of the table. Seeds are averaged before errors are "
        "compared with a single model's; an ensemble predicts the mean of its seeds."
    ]
    return Document(
        title=f"{context.sweep}: ours against other methods",
        tables=[
            _at_a_glance(comparison, compared, notes),
            Table("Every comparison", HEADINGS, [_row(each, comparison.unit) for each in compared]),
            *(_where_table(best, peer, found) for peer, found in where),
        ],
        records=pd.DataFrame([_record(each, comparison) for each in compared]),
    )


def _at_a_glance(comparison: Comparison, compared: Sequence[Against], notes: Sequence[str]) -> Table:
    """Return one line for each of our rows and one column for each peer; what is certain stands out."""
    peers = {each.peer: each.peer_mae for each in compared}
    by_row: dict[str, list[Against]] = {}
    for each in compared:
        by_row.setdefault(each.ours.label, []).append(each)
    rows = [
        [label, f"{float(found[0].ours.errors.absolute.mean()):.4f}", *map(_glance, found)]
        for label, found in by_row.items()
    ]
    certain = frozenset(
        (n, 2 + k)
        for n, found in enumerate(by_row.values())
        for k, each in enumerate(found)
        if verdict(each) != MAY_BE_CHANCE
    )
    headings = ["ours", f"MAE ({comparison.unit})", *(f"− {peer} ({mae:.4f})" for peer, mae in peers.items())]
    count = f"In bold what is certain: {len(certain)} of {len(compared)} differences."
    return Table(comparison.title, headings, rows, [*notes, count], certain)


def _glance(each: Against) -> str:
    value, ends = _difference(each.found.difference)
    return f"{value} ({ends})"


def verdict(each: Against) -> str:
    """Say which one is better, where the corrected test and the interval say so."""
    interval = each.found.difference
    if each.corrected >= ALPHA or interval.low <= 0 <= interval.high:
        return MAY_BE_CHANCE
    return "better" if interval.value < 0 else "worse"


def _where(comparison: Comparison, best: Method, peer: Peer, formulas: Mapping[str, str]) -> list[Group]:
    theirs = peer.errors(best.errors)
    ours = best.errors.among(set(theirs.ids))
    return groups(ours, theirs, formulas, gap="gap" in comparison.task)


def _where_table(best: Method, peer: Peer, found: Sequence[Group]) -> Table:
    rows = [
        [
            group.name,
            str(len(group.differences)),
            *_difference(mean_interval(group.differences)),
            p_text(sign_test(group.differences)),
        ]
        for group in found
    ]
    note = (
        "Not corrected for the number of groups: where to look, not what is certain. Elements: where they differ most."
    )
    return Table(
        f"Where they differ: {best.label} − {peer.name}",
        ("crystals of", "number", "difference", "95 % interval", "sign test p"),
        rows,
        [note],
    )


def _difference(interval: Interval) -> tuple[str, str]:
    ends = f"{interval.low:+.4f} to {interval.high:+.4f}"
    return f"{interval.value:+.4f}".replace("-", "−"), ends.replace("-", "−")


def _row(each: Against, unit: str) -> list[str]:
    found = each.found
    maes = (f"{mae:.4f} {unit}" for mae in (each.our_mae, each.peer_mae))
    p_values = (p_text(p) for p in (found.p_sign, found.p_bootstrap, each.corrected))
    label = f"{each.ours.label} − {each.peer}"
    share = f"{100 * found.better_on:.0f} %"
    return [label, str(found.materials), *maes, *_difference(found.difference), share, *p_values, verdict(each)]


def _record(each: Against, comparison: Comparison) -> dict[str, object]:
    found = each.found
    return {
        **comparison.labels, "ours": each.ours.label, "peer": each.peer, "materials": found.materials,
        "our_mae": each.our_mae, "peer_mae": each.peer_mae, "difference": found.difference.value,
        "low": found.difference.low, "high": found.difference.high, "better_on": found.better_on,
        "p_sign": found.p_sign, "p_bootstrap": found.p_bootstrap, "p_holm": each.corrected, "verdict": verdict(each),
    }  # fmt: skip


ITEM = Item(
    NAME,
    "Ours against other methods",
    "Errors of the same test crystals, paired: which differences are real, and where they are.",
    "how sure",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(main())

"""The paper's table of JARVIS: test error on five tasks, published and ours.

    python analysis/tables/jarvis_table.py --sweep ablation_frames

reads runs/mlflow.db and writes analysis/output/<sweep>/jarvis_table.{md,tex,html,csv}; what was not run stays empty.
"""

import sys
from collections.abc import Sequence

from analysis import literature
from analysis.items import Context, Item, Product
from crystalframer.command_line import reports_user_errors


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the table's files and print the Markdown; return the exit code."""
    return literature.run("jarvis", __doc__, argv)


def produce(context: Context) -> Product:
    """Make the table, and say what of ours is missing."""
    return literature.produce("jarvis", context)


ITEM = Item(
    "jarvis",
    "JARVIS: published and ours",
    "Test MAE on five tasks.",
    produce,
)


if __name__ == "__main__":
    sys.exit(main())

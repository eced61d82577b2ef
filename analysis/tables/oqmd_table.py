"""The paper's table of OQMD: test error on three tasks, with 4 and 8 blocks, published and ours.

    python analysis/tables/oqmd_table.py --sweep ablation_frames

reads runs/mlflow.db and writes analysis/output/<sweep>/oqmd_table.{md,tex,html,csv}; what was not run stays empty.
"""

import sys
from collections.abc import Sequence

from analysis import literature
from analysis.items import Context, Item, Product
from crystalframer.command_line import reports_user_errors


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the table's files and print the Markdown; return the exit code."""
    return literature.run("oqmd", __doc__, argv)


def produce(context: Context) -> Product:
    """Make the table, and say what of ours is missing."""
    return literature.produce("oqmd", context)


ITEM = Item(
    "oqmd",
    "OQMD: published and ours",
    "Test MAE on three tasks, with 4 and 8 blocks.",
    produce,
)


if __name__ == "__main__":
    sys.exit(main())

"""The paper's table of OQMD: test error on three tasks, with 4 and 8 blocks, published and ours.

    python analysis/tables/oqmd_table.py --sweep ablation_frames

reads runs/mlflow.db and writes analysis/output/<sweep>/oqmd_table.{md,tex,html,csv}; what was not run stays empty.
"""

import sys

from analysis.literature import literature_item

ITEM = literature_item("oqmd", "OQMD: published and ours", "Test MAE on three tasks, with 4 and 8 blocks.", __doc__)


if __name__ == "__main__":
    sys.exit(ITEM.main())

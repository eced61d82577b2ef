"""The paper's table of Materials Project: test error on four tasks, published and ours.

    python analysis/tables/mp_table.py --sweep ablation_frames

reads runs/mlflow.db and writes analysis/output/<sweep>/mp_table.{md,tex,html,csv}; what was not run stays empty.
"""

import sys

from analysis.literature import literature_item

ITEM = literature_item("mp", "Materials Project: published and ours", "Test MAE on four tasks.", __doc__)


if __name__ == "__main__":
    sys.exit(ITEM.main())

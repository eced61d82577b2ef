"""The paper's table of JARVIS: test error on five tasks, published and ours.

    python analysis/tables/jarvis_table.py --sweep ablation_frames

reads runs/mlflow.db and writes analysis/output/<sweep>/jarvis_table.{md,tex,html,csv}; what was not run stays empty.
"""

import sys

from analysis.literature import literature_item

ITEM = literature_item("jarvis", "JARVIS: published and ours", "Test MAE on five tasks.", __doc__)


if __name__ == "__main__":
    sys.exit(ITEM.main())

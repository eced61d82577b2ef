"""Whether a trial's settings suit its data; without torch, so that it is known before anything starts."""

import numpy as np

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData, require_elements
from crystalframer.errors import UserError
from crystalframer.training.metrics import require_targets


def check_suitable(trial: TrialConfig, data: TaskData, who: str = "") -> None:
    """Check that a model with these settings can be trained on these data.

    Args:
        trial: the settings.
        data: what `trial.data` names.
        who: put before the sentence, e.g. the name of one trial among many.

    Raises:
        UserError: another number of outputs than tasks, a target that is missing, an element that the model does not
            know, or no full batch.
    """
    size = len(data.rows["train"])
    if trial.model.num_targets != len(data.tasks):
        raise UserError(
            f"{who}setting 'model.num_targets': got {trial.model.num_targets}, expected {len(data.tasks)}, as "
            f"{data.task!r} has that many targets per crystal; leave the setting out"
        )
    require_targets(data, "train", "training")
    if size < trial.train.batch_size:
        raise UserError(
            f"{who}setting 'train.batch_size': got {trial.train.batch_size}, expected at most {size}, the size of the "
            f"training set of {data.task!r}; choose a smaller batch or more training crystals"
        )
    require_targets(data, "val", "validation")
    require_elements(data.dataset, np.concatenate(list(data.rows.values())), trial.model.num_elements)

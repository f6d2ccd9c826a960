"""Which of several screened candidates is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from study.selection.early_stopping import front_ranks
from study.training.epochs import Row


def choose(rows: Sequence[Row], earlier: Sequence[tuple[float, float]]) -> int:
    """The index of the candidate to train: of those with the lowest rank, that with the most accuracy + sparsity.

    Ranks are non-dominated ranks by accuracy and sparsity. In replays this found more than the candidate farthest in
    sparsity from those before, and than either measure alone (reports/search).

    Args:
      rows: of candidates, from `screen`; the first, if none of them could be cut.
      earlier: accuracy and sparsity of candidates screened before, which the ranks compare with.
    """
    able = [index for index, row in enumerate(rows) if row["error"] is None]
    if not able:
        return 0
    points = np.array([[rows[index]["screened_accuracy"], rows[index]["sparsity"]] for index in able])
    ranks = front_ranks(np.vstack([points, np.reshape(earlier, (-1, 2))]))[: len(able)]
    sums = np.where(ranks == ranks.min(), points.sum(axis=1), -math.inf)
    return able[int(np.argmax(sums))]

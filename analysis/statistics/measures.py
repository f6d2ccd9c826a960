"""How far a search has come: the hypervolume near the dense network, and the highest sparsity at little loss.

The hypervolume from (0, 0) hides differences, since a few random networks already have most of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from analysis.results_folder import Results, dense_control
from analysis.statistics import pareto

MARGIN = 0.10  # of accuracy below the dense network, that the near hypervolume counts
LOSSES = (0.01, 0.02, 0.05)  # of accuracy, at which the highest sparsity is asked for
NAMES = ("near", *(f"within_{100 * loss:.0f}" for loss in LOSSES))


def dense_accuracy(results: Results) -> float:
    """The better validation accuracy of the baseline and the dense controls' mean; NaN if neither is known."""
    baseline = (results.record.get("baseline") or {}).get("accuracy")
    control = dense_control(results.trials)["accuracy"].astype("float64").mean()
    return float(np.fmax(np.nan if baseline is None else float(baseline), control))


def progress(accuracy: npt.ArrayLike, sparsity: npt.ArrayLike, dense: float) -> npt.NDArray[np.float64]:
    """The measures NAMES of the first i networks, for i = 1 .. n; never decreases along n.

    near: area of the union of [dense - MARGIN, accuracy] x [0, sparsity] over the networks. within_L: the highest
    sparsity of the networks whose accuracy is at least dense - L points; 0 if there is none.

    Args:
      accuracy: of each network (n,), a fraction; NaN for trials without a network.
      sparsity: of each network (n,), a fraction.
      dense: accuracy of the dense network; NaN if unknown, as the measures are then.

    Returns:
      float64 (n, len(NAMES)).
    """
    points = np.column_stack([np.asarray(accuracy, dtype=float), np.asarray(sparsity, dtype=float)])
    if np.isnan(dense):
        return np.full((len(points), len(NAMES)), np.nan)
    near = pareto.volumes(points, ["max", "max"], (dense - MARGIN, 0.0))
    reached = [np.where(points[:, 0] >= dense - loss - 1e-9, points[:, 1], 0.0) for loss in LOSSES]
    return np.column_stack([near, *(np.maximum.accumulate(column) for column in reached)])

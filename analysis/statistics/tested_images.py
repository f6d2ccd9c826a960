"""Which test images each network classifies correctly, and what the draw of these images adds to an interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from analysis.results_folder import Results
from analysis.statistics.intervals import Interval, mean_interval

BASELINE = "baseline"  # the dense network's file
ImageVariance = Callable[[Iterable[str], Iterable[str]], float]


def shares(results: Results, trial_ids: Iterable[str]) -> np.ndarray | None:
    """For each test image the share of these trials (or the BASELINE) that classify it correctly, float64 (n,).

    None if it is not known of one of them, as in folders of older versions. Raises ValueError, naming the file, if one
    is damaged.
    """
    found = [_correct(results, trial_id) for trial_id in trial_ids]
    known = [correct for correct in found if correct is not None]
    if not known or len(known) < len(found) or len({len(correct) for correct in known}) > 1:
        return None
    return np.asarray(np.mean(known, axis=0, dtype=np.float64))


def _correct(results: Results, name: str) -> np.ndarray | None:
    path = results.folder / "correct" / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return np.unpackbits(file["bits"], count=int(file["images"])).astype(bool)
    except FileNotFoundError:
        return None
    except Exception as error:  # numpy has many types for what may be wrong with a file
        raise ValueError(f"{path}: is damaged: {type(error).__name__}: {error}") from None


def variance(shares: np.ndarray | None) -> float:
    """Variance of the mean of `shares` (n,) over draws of the test images, the networks held fixed; 0 if None."""
    return 0.0 if shares is None or len(shares) < 2 else float(np.var(shares, ddof=1)) / len(shares)


def difference(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    """The difference first - second, (n,); images that both get right, or wrong, say nothing.

    None if one of them is, or they are of different images.
    """
    return None if first is None or second is None or len(first) != len(second) else first - second


def of_difference(results: Results) -> ImageVariance:
    """A function of two sets of trials, by id: `variance` of the difference of their mean accuracies; 0 if unknown."""
    return lambda one, other: variance(difference(shares(results, one), shares(results, other)))


def mean_with_images(results: Results, rows: pd.DataFrame) -> Interval:
    """The mean test accuracy of these trials, with its interval over runs and test images."""
    return mean_interval(rows["test_accuracy"].astype("float64"), variance(shares(results, rows["trial_id"])))

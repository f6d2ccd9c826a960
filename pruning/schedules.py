"""Schedules: cumulative sparsity as a function of progress.

progress in [0, 1] is the share of cuts already made. A schedule is a function (progress, final, initial=0.0) ->
sparsity that never decreases and reaches `final` at progress 1.
"""

from __future__ import annotations

from collections.abc import Callable


def one_shot(progress: float, final: float, initial: float = 0.0) -> float:
    """The target in one cut.

    `initial` is ignored.

    >>> one_shot(0.0, 0.9)
    0.9
    """
    _check(progress, final, initial)
    return final


def iterative(progress: float, final: float, initial: float = 0.0) -> float:
    """Equal steps: initial + (final - initial) * progress.

    Each cut removes the same share of the dense network, not of what is left; pruning and retraining alternate.

    Source: Han 2015, arXiv:1506.02626

    >>> iterative(0.25, final=0.8)
    0.2
    """
    _check(progress, final, initial)
    return initial + (final - initial) * progress


def gradual(progress: float, final: float, initial: float = 0.0) -> float:
    """Large steps first, small ones at the end: final + (initial - final) * (1 - progress)^3.

    Source: Zhu & Gupta 2017, arXiv:1710.01878

    >>> gradual(0.5, final=0.5)
    0.4375
    """
    _check(progress, final, initial)
    return final + (initial - final) * (1 - progress) ** 3


SCHEDULES: dict[str, Callable[..., float]] = {
    "one_shot": one_shot,
    "iterative": iterative,
    "gradual": gradual,
}


def cut_points(schedule: str, final: float, steps: int, initial: float = 0.0) -> list[float]:
    """Cumulative sparsity after each cut, never decreasing; the last is `final`.

    With initial = 0, cut i = 0 .. steps - 1 is at progress (i + 1) / steps, since a cut to 0 removes nothing. With
    initial > 0 it is at i / (steps - 1): the first cut reaches `initial`, unless it is the only one.

    >>> cut_points("iterative", final=0.75, steps=3)
    [0.25, 0.5, 0.75]

    Args:
      schedule: a name in SCHEDULES.
      final: target sparsity.
      steps: number of cuts, at least 1; `one_shot` always has 1.
      initial: sparsity of the first cut, if > 0.

    Raises:
      ValueError: unknown schedule, steps < 1, or not 0 <= initial <= final < 1.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; choose from {', '.join(SCHEDULES)}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1; it is {steps}")
    _check(1.0, final, initial)
    sparsity_at = SCHEDULES[schedule]
    before_last = 0 if sparsity_at is one_shot else steps - 1
    progress = [i / (steps - 1) if initial else (i + 1) / steps for i in range(before_last)]
    return [sparsity_at(p, final, initial) for p in progress] + [final]


def _check(progress: float, final: float, initial: float) -> None:
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must be in [0, 1]; it is {progress}")
    if not 0 <= initial <= final < 1:
        raise ValueError(f"0 <= initial <= final < 1 must hold; initial is {initial}, final {final}")

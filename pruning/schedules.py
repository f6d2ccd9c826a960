"""Schedules: cumulative sparsity against progress.

progress in [0, 1]: the share of the schedule's cuts that is done. Each schedule is one function
(progress, final, initial=0.0) -> sparsity, never decreasing, and `final` at progress 1.
"""

from __future__ import annotations

from collections.abc import Callable


def one_shot(progress: float, final: float, initial: float = 0.0) -> float:
    """All in one cut: `final` throughout; there is no way there, so `initial` plays no part.

    >>> one_shot(0.0, 0.9)
    0.9
    """
    _check(progress, final, initial)
    return final


def iterative(progress: float, final: float, initial: float = 0.0) -> float:
    """Equal shares of the dense network: initial + (final - initial) * progress.

    Of the dense network, not of what is left. Han et al. 2015, arXiv:1506.02626 (prune and retrain in turn).

    >>> iterative(0.25, final=0.8)
    0.2
    """
    _check(progress, final, initial)
    return initial + (final - initial) * progress


def gradual(progress: float, final: float, initial: float = 0.0) -> float:
    """Much at first, little at the end: final + (initial - final) * (1 - progress) ** 3.

    Zhu and Gupta 2017, arXiv:1710.01878, equation 1.

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
    """The cumulative sparsity asked for by each of `steps` >= 1 cuts, never decreasing; the last is `final`.

    From initial = 0, cut i = 0 .. steps - 1 happens at progress (i + 1) / steps, since a cut to 0 is no
    cut; from initial > 0 at i / (steps - 1), so that the first reaches `initial`, unless it is the only
    one. `one_shot` has one cut whatever `steps`. Raises ValueError unless the schedule is known, steps >= 1
    and 0 <= initial <= final < 1.

    >>> cut_points("iterative", final=0.75, steps=3)
    [0.25, 0.5, 0.75]
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

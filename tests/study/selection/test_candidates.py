"""Which of several screened candidates is chosen."""

from typing import Any

import moocore
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from study.selection.candidates import choose


def candidate(accuracy: float, sparsity: float) -> Any:
    return {"error": None, "screened_accuracy": accuracy, "sparsity": sparsity}


def test_the_lowest_rank_counts_then_the_sum() -> None:
    rows = [candidate(0.9, 0.3), candidate(0.7, 0.6), candidate(0.35, 0.9), candidate(0.6, 0.5)]
    assert choose(rows, []) == 1
    assert choose(rows, [(0.8, 0.7)]) == 2  # which dominates the second
    assert choose(rows, [(0.8, 0.7), (0.4, 0.95)]) == 0


POINTS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8)


@given(rows=POINTS, earlier=POINTS | st.just([]))
def test_no_candidate_dominates_the_chosen_one(rows: Any, earlier: Any) -> None:
    index = choose([candidate(*point) for point in rows], earlier)
    assert moocore.is_nondominated(np.array(rows), maximise=True, keep_weakly=True)[index]

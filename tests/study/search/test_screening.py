"""The queue with screening: of several candidates one is a trial; what is lost is drawn anew or runs again."""

from pathlib import Path
from typing import Any

from study.search.trial_queue import TrialQueue
from study.trials.context import Ticket
from tests.study.search.test_trial_queue import row, study_file

SCREEN = {"screen": {"candidates": 3}}


def screened(queue: Any, ticket: Any, chosen: int = 1, error: Any = None) -> Any:
    """The ticket of the chosen candidate. error: of the last one."""
    found = [{"state": "screened", "error": None, "screened_accuracy": 0.1 * n, "sparsity": 0.5} for n in range(3)]
    found[-1]["error"] = error
    return queue.screened(ticket, found, chosen)


def test_one_of_three_candidates_is_a_trial_and_the_others_are_rows(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file(**SCREEN, trials=2, start_with=[{"scope": "layer"}]))
    first = queue.ask()
    assert (first.recipe["scope"], first.candidates) == ("layer", ())  # what the study asks for is not screened
    ticket = queue.ask()
    assert queue.ask() is None  # two run
    assert [Ticket(*candidate).trial_id for candidate in ticket.candidates] == ["0001", "0002", "0003"]
    chosen = screened(queue, ticket, error="it is too small")
    assert (chosen.trial_id, chosen.candidates) == ("0002", ())
    assert queue.ask() is None
    queue.store.tell(chosen, row(0.9), [])
    queue.store.tell(first, row(), [])
    rows = {r["trial_id"]: r for r in queue.store.rows()}
    states = {key: r["state"] for key, r in rows.items()}
    assert states == {"0000": "complete", "0001": "screened", "0002": "complete", "0003": "screened"}
    assert (rows["0002"]["screened_accuracy"], rows["0002"]["accuracy"]) == (0.1, 0.9)
    assert "screened_accuracy" not in rows["0000"]
    assert {key for key, r in rows.items() if r["feasible"]} == {"0000", "0002"}
    # Samplers learn nothing of a candidate that was screened out; one that cannot be cut is infeasible.
    told = queue.store.search.get_trials()
    assert [t.state.name for t in told] == ["COMPLETE", "FAIL", "COMPLETE", "PRUNED"]
    assert [t.system_attrs.get("constraints") for t in told] == [None, None, None, [1.0]]


def test_candidates_are_compared_with_those_screened_before(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file(**SCREEN))
    assert queue.ask().earlier == []
    queue.store.close()
    queue = TrialQueue(tmp_path, study_file(**SCREEN))
    screened(queue, queue.ask())
    assert queue.ask().earlier == [(0.0, 0.5), (0.2, 0.5)]


def test_lost_candidates_are_drawn_anew_and_a_chosen_one_runs_again(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file(**SCREEN, trials=2, seeds=2))
    queue.ask()
    chosen = screened(queue, queue.ask())
    copy = queue.ask()
    assert (copy.recipe, copy.candidates) == (chosen.recipe, ())
    assert copy.seed != chosen.seed
    queue.store.close()
    queue = TrialQueue(tmp_path, study_file(**SCREEN, trials=2, seeds=2))
    again = [queue.ask(), queue.ask()]
    assert [(t.recipe, t.seed, t.candidates) for t in again] == [(t.recipe, t.seed, ()) for t in (chosen, copy)]
    queue.store.tell(again[0], row(), [])
    queue.store.tell(again[1], row(), [])
    assert len(queue.ask().candidates) == 3
    assert [r.get("screened_accuracy") for r in queue.store.rows()] == [0.0, 0.2, 0.1, None]
    assert queue.store.finished == 2

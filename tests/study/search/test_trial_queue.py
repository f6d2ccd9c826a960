"""The queue: nothing finished is lost, nothing runs twice, whatever kills the driver."""

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from study.config import parse
from study.search import journal, recovery
from study.search.trial_queue import TrialQueue
from study.search.trial_store import in_order
from study.trials.context import CONFIRMING, RUNS

SPACE = {"criterion": "magnitude_l1", "granularity": "weight", "scope": ["global", "layer"], "schedule": "one_shot"}


def study_file(**study: Any) -> Any:
    return parse({"study": {"name": "x", "trials": 4, **study}, "space": SPACE}, "x.yaml")


def row(accuracy: Any = 0.5, sparsity: Any = 0.5, state: Any = "complete") -> Any:
    return {"state": state, "error": None, "accuracy": accuracy, "sparsity": sparsity, "accuracy_drop": 0.9 - accuracy}


def drain(queue: Any) -> Any:
    tickets = []
    while ticket := queue.ask():
        tickets.append(ticket)
        queue.store.tell(ticket, row(), [{"epoch": 1}])
    return tickets


def test_asks_as_many_as_the_study_wants_and_keeps_rows_and_history(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file())
    tickets = drain(queue)
    assert [t.trial_id for t in tickets] == ["0000", "0001", "0002", "0003"]
    assert len({t.seed for t in tickets}) == 4
    queue.store.close()
    again = TrialQueue(tmp_path, study_file())
    assert again.ask() is None
    assert [r["trial_id"] for r in again.store.rows()] == ["0000", "0001", "0002", "0003"]
    assert again.store.records["0002"][1] == [{"trial_id": "0002", "epoch": 1}]


def test_what_was_in_flight_runs_again_with_its_seed_and_recipe(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file())
    finished, lost = queue.ask(), queue.ask()
    queue.store.tell(finished, row(), [])
    queue.store.close()
    queue = TrialQueue(tmp_path, study_file())
    again = queue.ask()
    assert (again.recipe, again.seed) == (lost.recipe, lost.seed)
    queue.store.tell(again, row(), [])
    assert len(drain(queue)) == 2
    assert len(queue.store.rows()) == 4


def test_a_trial_that_ends_its_driver_again_and_again_is_failed_with_its_reason(tmp_path: Path) -> None:
    for _ in range(3):
        queue = TrialQueue(tmp_path, study_file())
        assert queue.store.rows() == []
        assert queue.ask()
        queue.store.close()
    queue = TrialQueue(tmp_path, study_file())
    (only,) = queue.store.rows()
    assert (only["state"], only["error"]) == ("failed", "lost with its driver 3 times")
    assert len(drain(queue)) == 3


@pytest.mark.parametrize(("together", "seconds"), [(2, 0), (1, 2 * recovery.SOON)], ids=["beside others", "for long"])
def test_what_only_happened_to_run_when_its_driver_was_killed_is_never_given_up(
    tmp_path: Path, together: Any, seconds: Any
) -> None:
    recipes = []
    for _ in range(8):
        queue = TrialQueue(tmp_path, study_file(max_losses=1))
        recipes.append([queue.ask().recipe for _ in range(together)])
        queue.store.close()
        late = time.time() + seconds  # the last sign of life
        os.utime(tmp_path / "optuna.journal", (late, late))
    assert all(recipe == recipes[0] for recipe in recipes)
    assert len(drain(TrialQueue(tmp_path, study_file(max_losses=1)))) == 4


def test_a_living_driver_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "BEAT", 0.01)
    queue = TrialQueue(tmp_path, study_file())
    os.utime(tmp_path / "optuna.journal", (0, 0))
    deadline = time.monotonic() + 10
    while not (tmp_path / "optuna.journal").stat().st_mtime:
        assert time.monotonic() < deadline
    queue.store.close()


def test_recorded_but_not_told_is_told_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = TrialQueue(tmp_path, study_file())
    ticket = queue.ask()
    monkeypatch.setattr(queue.store, "conclude", lambda trial, row: None)  # killed between the two writes
    queue.store.tell(ticket, row(0.7), [])
    queue.store.close()
    queue = TrialQueue(tmp_path, study_file())
    assert [r["accuracy"] for r in queue.store.rows()] == [0.7]
    assert len(drain(queue)) == 3


def test_a_half_written_line_and_a_stale_journal_lock_are_survived(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file())
    queue.store.tell(queue.ask(), row(), [])
    queue.store.close()
    with open(tmp_path / "optuna.journal", "ab") as journal:
        journal.write(b'{"op_code": 4, "worker_id": "half')
    (tmp_path / "optuna.journal.lock").symlink_to("gone")
    queue = TrialQueue(tmp_path, study_file())
    assert len(queue.store.rows()) == 1
    assert len(drain(queue)) == 3


def test_a_second_driver_is_refused_and_a_changed_file_is_shown(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file())
    with pytest.raises(ValueError, match="another run"):
        TrialQueue(tmp_path, study_file())
    queue.store.close()
    with pytest.raises(ValueError, match=r"study\.seed was 0, is 1"):
        TrialQueue(tmp_path, study_file(seed=1))


def test_more_trials_and_hours_later(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file())
    drain(queue)
    queue.store.close()
    assert len(drain(TrialQueue(tmp_path, study_file(trials=6, hours=1.0)))) == 2


def test_every_recipe_runs_with_every_seed(tmp_path: Path) -> None:
    tickets = drain(TrialQueue(tmp_path, study_file(trials=2, seeds=3)))
    assert len(tickets) == 6
    assert tickets[0].recipe == tickets[1].recipe == tickets[2].recipe != tickets[3].recipe
    assert len({t.seed for t in tickets}) == 6
    # Run k of every recipe has draw k of the calibration images: shared by recipes, never by runs of one.
    assert [t.seed % RUNS for t in tickets] == [0, 1, 2, 0, 1, 2]


def test_grid_runs_each_point_once_even_over_a_restart(tmp_path: Path) -> None:
    space = {**SPACE, "sparsity": {"low": 0.5, "high": 0.9, "step": 0.2}, "finetune_lr": 0.1}
    file = parse({"study": {"name": "x", "search": "grid"}, "space": space}, "x.yaml")
    queue = TrialQueue(tmp_path, file)
    first = queue.ask()
    queue.store.tell(first, row(), [])
    lost = queue.ask()
    queue.store.close()
    points = [first, *drain(TrialQueue(tmp_path, file))]
    assert lost.recipe in [p.recipe for p in points]
    assert sorted((p.recipe["scope"], p.recipe["sparsity"]) for p in points) == [
        (scope, sparsity) for scope in ("global", "layer") for sparsity in (0.5, 0.7, 0.9)
    ]


def test_a_journal_from_before_a_key_existed_goes_on_with_its_default(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file())
    older = queue.store.search.user_attrs["file"]
    del older["study"]["max_losses"], older["resources"]["niceness"]
    queue.store.search.set_user_attr("file", older)
    queue.store.close()
    TrialQueue(tmp_path, study_file()).store.close()
    with pytest.raises(ValueError, match=r"study.max_losses was 3, is 1"):
        TrialQueue(tmp_path, study_file(max_losses=1))


def test_known_recipes_come_first(tmp_path: Path) -> None:
    start = {"scope": "layer", "sparsity": 0.25, "finetune_lr": 0.05}
    tickets = drain(TrialQueue(tmp_path, study_file(start_with=[start])))
    assert start.items() <= tickets[0].recipe.items()


def test_a_stored_repeat_counts_without_running(tmp_path: Path) -> None:
    space = {**SPACE, "scope": "global", "sparsity": 0.5, "finetune_lr": 0.1}
    file = parse({"study": {"name": "x", "trials": 5, "repeats": "stored"}, "space": space}, "x.yaml")
    queue = TrialQueue(tmp_path, file)
    assert len(drain(queue)) == 1
    assert len(queue.store.rows()) == 5
    assert len({r["seed"] for r in queue.store.rows()}) == 1  # one run, however often it counts


def test_infeasible_rows_are_kept_and_marked(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file(constraints={"accuracy_drop": "<= 0.2"}))
    for accuracy in (0.8, 0.6):
        queue.store.tell(queue.ask(), row(accuracy), [])
    assert [r["feasible"] for r in queue.store.rows()] == [True, False]
    assert [t.values for t in queue.store.search.best_trials] == [[0.8, 0.5]]


def test_controls_are_rows_that_the_sampler_never_hears_of(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file())
    drain(queue)
    control = queue.ask_control("dense", {"sparsity": 0.0})
    queue.store.tell(control, row(0.99, 0.0), [])
    assert control.trial_id == "c0000"
    assert [r["schedule"] for r in queue.store.rows("control")] == ["dense"]
    assert len(queue.store.search.trials) == 4
    assert all(t.values != [0.99, 0.0] for t in queue.store.search.trials)


def test_a_recipe_known_from_elsewhere_is_told_and_not_run(tmp_path: Path) -> None:
    known = {**row(0.8), "seed": 7, "trial_id": "0042"}
    asked = []

    def look(recipe: Any) -> Any:
        asked.append(recipe)
        return (known, [{"epoch": 1}]) if recipe["scope"] == "layer" else None

    queue = TrialQueue(tmp_path, study_file(trials=10), known=look)
    tickets = drain(queue)
    assert len(asked) == len(queue.store.rows()) == 10
    assert {t.recipe["scope"] for t in tickets} == {"global"}
    told = [r for r in queue.store.rows() if r.get("repeats")]
    assert len(told) + len(tickets) == 10
    assert {(r["accuracy"], r["seed"], r["repeats"]) for r in told} == {(0.8, 7, "0042")}
    assert queue.store.records[told[0]["trial_id"]][1] == [{"trial_id": told[0]["trial_id"], "epoch": 1}]


def test_copies_still_due_when_the_driver_died_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = TrialQueue(tmp_path, study_file(trials=2, seeds=3))
    monkeypatch.setattr(queue, "_enqueue_copy", lambda trial: None)  # killed before it could queue the other two seeds
    lost = queue.ask()
    queue.store.close()
    tickets = drain(TrialQueue(tmp_path, study_file(trials=2, seeds=3)))
    assert len(tickets) == 6
    assert [t.recipe for t in tickets].count(lost.recipe) == 3


def test_a_point_of_the_grid_lost_half_drawn_is_run_as_it_was(tmp_path: Path) -> None:
    space = {**SPACE, "criterion": ["magnitude_l1", "random"], "sparsity": [0.3, 0.6], "finetune_lr": 0.1}
    file = parse({"study": {"name": "x", "search": "grid"}, "space": space}, "x.yaml")
    queue = TrialQueue(tmp_path, file)
    queue._enqueue_fixed()
    # Killed before the other axes were drawn.
    queue.store.search.ask().suggest_categorical("criterion", ["magnitude_l1", "random"])
    queue.store.close()
    points = [tuple(t.recipe[k] for k in ("criterion", "scope", "sparsity")) for t in drain(TrialQueue(tmp_path, file))]
    assert len(points) == len(set(points)) == 8


def front(queue: Any, *trial_ids: Any) -> Any:
    return [queue.store.records[trial_id][0] for trial_id in trial_ids]


def test_every_row_of_the_front_is_confirmed_with_further_seeds_and_the_sampler_never_hears_of_it(
    tmp_path: Path,
) -> None:
    queue = TrialQueue(tmp_path, study_file(confirm_seeds=2))
    drain(queue)
    chosen = front(queue, "0001", "0003")
    tickets = []
    while ticket := queue.ask_confirm(chosen):
        tickets.append(ticket)
        queue.store.tell(ticket, row(0.6), [])
    assert [(t.trial_id, t.kind, t.confirms) for t in tickets] == [
        ("k0000", "confirm", "0001"),
        ("k0001", "confirm", "0001"),
        ("k0002", "confirm", "0003"),
        ("k0003", "confirm", "0003"),
    ]
    assert tickets[0].recipe == tickets[1].recipe == queue.store.recipe("0001")
    assert len({t.seed for t in tickets} | {r["seed"] for r in chosen}) == 6
    assert [t.seed % RUNS for t in tickets] == [CONFIRMING, CONFIRMING + 1] * 2
    assert [r["confirms"] for r in queue.store.rows("confirm")] == ["0001", "0001", "0003", "0003"]
    assert len(queue.store.rows()) == len(queue.store.search.trials) == 4
    queue.store.close()
    again = TrialQueue(tmp_path, study_file(confirm_seeds=2))
    assert again.ask_confirm(front(again, "0001", "0003")) is None
    assert again.ask_confirm(front(again, "0000")).seed not in {t.seed for t in tickets}


def test_a_lost_confirmation_runs_again_with_its_seed_and_is_given_up_after_two(tmp_path: Path) -> None:
    seeds = []
    for _ in range(2):
        queue = TrialQueue(tmp_path, study_file(trials=1, confirm_seeds=1, max_losses=2))
        drain(queue)
        seeds.append(queue.ask_confirm(front(queue, "0000")).seed)
        assert queue.ask_confirm(front(queue, "0000")) is None  # it runs
        queue.store.close()
    queue = TrialQueue(tmp_path, study_file(trials=1, confirm_seeds=1, max_losses=2))
    assert seeds[0] == seeds[1]
    assert queue.ask_confirm(front(queue, "0000")) is None
    (only,) = queue.store.rows("confirm")
    assert (only["state"], only["error"]) == ("failed", "lost with its driver 2 times")
    assert only["confirms"] == "0000"


def test_cut_networks_of_the_front_are_trained_from_scratch_once(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file())
    while ticket := queue.ask():
        granularity = "channel" if ticket.trial_id in ("0001", "0002") else "weight"
        queue.store.tell(ticket, row() | {"granularity": granularity}, [])
    everything = queue.store.rows()
    tickets = [queue.ask_scratch(everything) for _ in range(3)]
    assert tickets[2] is None
    assert [(t.control, t.confirms, t.recipe) for t in tickets[:2]] == [
        ("scratch", "0001", queue.store.recipe("0001")),
        ("scratch", "0002", queue.store.recipe("0002")),
    ]
    queue.store.tell(tickets[0], row(), [])
    assert [(r["schedule"], r["confirms"]) for r in queue.store.rows("control")] == [("scratch", "0001")]
    assert queue.ask_control("dense", {"sparsity": 0.0}).control == "dense"


def test_a_stopped_trial_is_no_result(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file())
    queue.store.tell(queue.ask(), row(0.9, state="stopped"), [{"epoch": 1}])
    assert [(r["state"], r["feasible"]) for r in queue.store.rows()] == [("stopped", False)]
    assert [t.state.name for t in queue.store.search.trials] == ["PRUNED"]


def test_a_disk_that_fills_stops_the_study_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = TrialQueue(tmp_path, study_file())
    queue.store.tell(queue.ask(), row(), [])
    ticket, whole = queue.ask(), (tmp_path / "optuna.journal").read_bytes()
    full = Full(queue.store._journal._file, 20)
    monkeypatch.setattr(queue.store._journal, "_file", full)
    with pytest.raises(OSError, match="No space left"):
        queue.store.tell(ticket, row(), [])
    assert (tmp_path / "optuna.journal").read_bytes() == whole
    monkeypatch.undo()
    queue.store.close()
    again = TrialQueue(tmp_path, study_file())
    assert len(again.store.rows()) == 1
    tickets = drain(again)
    assert (tickets[0].recipe, tickets[0].seed) == (ticket.recipe, ticket.seed)
    assert len(again.store.rows()) == 4


class Full:
    """A file on a disk that has room for a few more bytes."""

    def __init__(self, file: Any, room: Any) -> None:
        self._file, self._room = file, room

    def write(self, content: Any) -> Any:
        if not self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self._file.write(content[: self._room])
        self._room -= count
        return count

    def fileno(self) -> Any:
        return self._file.fileno()


def test_ids_are_in_order_beyond_the_ten_thousandth() -> None:
    assert in_order(["10000", "0002", "9999", "c0001"]) == ["0002", "9999", "10000", "c0001"]

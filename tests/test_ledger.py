"""The ledger: nothing finished is lost, nothing runs twice, whatever kills the driver."""

import errno

import pytest

from study.config import parse
from study.ledger import Ledger, in_order

SPACE = {"criterion": "magnitude_l1", "granularity": "weight", "scope": ["global", "layer"], "schedule": "one_shot"}


def study_file(**study):
    return parse({"study": {"name": "x", "trials": 4, **study}, "space": SPACE}, "x.yaml")


def row(accuracy=0.5, sparsity=0.5, state="complete"):
    return {"state": state, "error": None, "accuracy": accuracy, "sparsity": sparsity, "accuracy_drop": 0.9 - accuracy}


def drain(ledger):
    tickets = []
    while ticket := ledger.ask():
        tickets.append(ticket)
        ledger.tell(ticket, row(), [{"epoch": 1}])
    return tickets


def test_asks_as_many_as_the_study_wants_and_keeps_rows_and_history(tmp_path):
    ledger = Ledger(tmp_path, study_file())
    tickets = drain(ledger)
    assert [t.trial_id for t in tickets] == ["0000", "0001", "0002", "0003"]
    assert len({t.seed for t in tickets}) == 4
    ledger.close()
    again = Ledger(tmp_path, study_file())
    assert again.ask() is None
    assert [r["trial_id"] for r in again.rows()] == ["0000", "0001", "0002", "0003"]
    assert again.records["0002"][1] == [{"trial_id": "0002", "epoch": 1}]


def test_what_was_in_flight_runs_again_with_its_seed_and_recipe(tmp_path):
    ledger = Ledger(tmp_path, study_file())
    finished, lost = ledger.ask(), ledger.ask()
    ledger.tell(finished, row(), [])
    ledger.close()
    ledger = Ledger(tmp_path, study_file())
    again = ledger.ask()
    assert (again.recipe, again.seed) == (lost.recipe, lost.seed)
    ledger.tell(again, row(), [])
    assert len(drain(ledger)) == 2
    assert len(ledger.rows()) == 4


def test_a_trial_lost_twice_is_failed_with_its_reason(tmp_path):
    for _ in range(2):
        ledger = Ledger(tmp_path, study_file())
        assert ledger.ask()
        ledger.close()
    ledger = Ledger(tmp_path, study_file())
    (only,) = ledger.rows()
    assert (only["state"], only["error"]) == ("failed", "lost with its driver 2 times")
    assert len(drain(ledger)) == 3


def test_recorded_but_not_told_is_told_not_run_again(tmp_path):
    ledger = Ledger(tmp_path, study_file())
    ticket = ledger.ask()
    ledger._conclude = lambda trial, row: None  # killed between the two writes
    ledger.tell(ticket, row(0.7), [])
    ledger.close()
    ledger = Ledger(tmp_path, study_file())
    assert [r["accuracy"] for r in ledger.rows()] == [0.7]
    assert len(drain(ledger)) == 3


def test_a_half_written_line_and_a_stale_journal_lock_are_survived(tmp_path):
    ledger = Ledger(tmp_path, study_file())
    ledger.tell(ledger.ask(), row(), [])
    ledger.close()
    with open(tmp_path / "optuna.journal", "ab") as journal:
        journal.write(b'{"op_code": 4, "worker_id": "half')
    (tmp_path / "optuna.journal.lock").symlink_to("gone")
    ledger = Ledger(tmp_path, study_file())
    assert len(ledger.rows()) == 1
    assert len(drain(ledger)) == 3


def test_a_second_driver_is_refused_and_a_changed_file_is_shown(tmp_path):
    ledger = Ledger(tmp_path, study_file())
    with pytest.raises(ValueError, match="another run"):
        Ledger(tmp_path, study_file())
    ledger.close()
    with pytest.raises(ValueError, match=r"study\.seed was 0, is 1"):
        Ledger(tmp_path, study_file(seed=1))


def test_more_trials_and_hours_later(tmp_path):
    ledger = Ledger(tmp_path, study_file())
    drain(ledger)
    ledger.close()
    assert len(drain(Ledger(tmp_path, study_file(trials=6, hours=1.0)))) == 2


def test_every_recipe_runs_with_every_seed(tmp_path):
    tickets = drain(Ledger(tmp_path, study_file(trials=2, seeds=3)))
    assert len(tickets) == 6
    assert tickets[0].recipe == tickets[1].recipe == tickets[2].recipe != tickets[3].recipe
    assert len({t.seed for t in tickets}) == 6


def test_grid_runs_each_point_once_even_over_a_restart(tmp_path):
    space = {**SPACE, "sparsity": {"low": 0.5, "high": 0.9, "step": 0.2}, "finetune_lr": 0.1}
    file = parse({"study": {"name": "x", "search": "grid"}, "space": space}, "x.yaml")
    ledger = Ledger(tmp_path, file)
    first = ledger.ask()
    ledger.tell(first, row(), [])
    lost = ledger.ask()
    ledger.close()
    points = [first, *drain(Ledger(tmp_path, file))]
    assert lost.recipe in [p.recipe for p in points]
    assert sorted((p.recipe["scope"], p.recipe["sparsity"]) for p in points) == [
        (scope, sparsity) for scope in ("global", "layer") for sparsity in (0.5, 0.7, 0.9)
    ]


def test_known_recipes_come_first(tmp_path):
    start = {"scope": "layer", "sparsity": 0.25, "finetune_lr": 0.05}
    tickets = drain(Ledger(tmp_path, study_file(start_with=[start])))
    assert start.items() <= tickets[0].recipe.items()


def test_a_stored_repeat_counts_without_running(tmp_path):
    space = {**SPACE, "scope": "global", "sparsity": 0.5, "finetune_lr": 0.1}
    file = parse({"study": {"name": "x", "trials": 5, "repeats": "stored"}, "space": space}, "x.yaml")
    ledger = Ledger(tmp_path, file)
    assert len(drain(ledger)) == 1
    assert len(ledger.rows()) == 5
    assert len({r["seed"] for r in ledger.rows()}) == 1  # one run, however often it counts


def test_infeasible_rows_are_kept_and_marked(tmp_path):
    ledger = Ledger(tmp_path, study_file(constraints={"accuracy_drop": "<= 0.2"}))
    for accuracy in (0.8, 0.6):
        ledger.tell(ledger.ask(), row(accuracy), [])
    assert [r["feasible"] for r in ledger.rows()] == [True, False]
    assert [t.values for t in ledger._search.best_trials] == [[0.8, 0.5]]


def test_controls_are_rows_that_the_sampler_never_hears_of(tmp_path):
    ledger = Ledger(tmp_path, study_file())
    drain(ledger)
    control = ledger.ask_control("dense", {"sparsity": 0.0})
    ledger.tell(control, row(0.99, 0.0), [])
    assert control.trial_id == "c0000"
    assert [r["schedule"] for r in ledger.rows("control")] == ["dense"]
    assert len(ledger._search.trials) == 4
    assert all(t.values != [0.99, 0.0] for t in ledger._search.trials)


def test_a_recipe_known_from_elsewhere_is_told_and_not_run(tmp_path):
    known = {**row(0.8), "seed": 7, "trial_id": "0042"}
    asked = []

    def look(recipe):
        asked.append(recipe)
        return (known, [{"epoch": 1}]) if recipe["scope"] == "layer" else None

    ledger = Ledger(tmp_path, study_file(trials=10), known=look)
    tickets = drain(ledger)
    assert len(asked) == len(ledger.rows()) == 10
    assert {t.recipe["scope"] for t in tickets} == {"global"}
    told = [r for r in ledger.rows() if r.get("repeats")]
    assert len(told) + len(tickets) == 10
    assert {(r["accuracy"], r["seed"], r["repeats"]) for r in told} == {(0.8, 7, "0042")}
    assert ledger.records[told[0]["trial_id"]][1] == [{"trial_id": told[0]["trial_id"], "epoch": 1}]


def test_copies_still_due_when_the_driver_died_are_run(tmp_path):
    ledger = Ledger(tmp_path, study_file(trials=2, seeds=3))
    ledger._enqueue_copy = lambda trial: None  # killed before it could queue the other two seeds
    lost = ledger.ask()
    ledger.close()
    tickets = drain(Ledger(tmp_path, study_file(trials=2, seeds=3)))
    assert len(tickets) == 6
    assert [t.recipe for t in tickets].count(lost.recipe) == 3


def test_a_point_of_the_grid_lost_half_drawn_is_run_as_it_was(tmp_path):
    space = {**SPACE, "criterion": ["magnitude_l1", "random"], "sparsity": [0.3, 0.6], "finetune_lr": 0.1}
    file = parse({"study": {"name": "x", "search": "grid"}, "space": space}, "x.yaml")
    ledger = Ledger(tmp_path, file)
    ledger._enqueue_fixed()
    ledger._search.ask().suggest_categorical("criterion", ["magnitude_l1", "random"])  # killed before the other axes
    ledger.close()
    points = [tuple(t.recipe[k] for k in ("criterion", "scope", "sparsity")) for t in drain(Ledger(tmp_path, file))]
    assert len(points) == len(set(points)) == 8


def front(ledger, *trial_ids):
    return [ledger.records[trial_id][0] for trial_id in trial_ids]


def test_every_row_of_the_front_is_confirmed_with_further_seeds_and_the_sampler_never_hears_of_it(tmp_path):
    ledger = Ledger(tmp_path, study_file(confirm_seeds=2))
    drain(ledger)
    chosen = front(ledger, "0001", "0003")
    tickets = []
    while ticket := ledger.ask_confirm(chosen):
        tickets.append(ticket)
        ledger.tell(ticket, row(0.6), [])
    assert [(t.trial_id, t.kind, t.confirms) for t in tickets] == [
        ("k0000", "confirm", "0001"),
        ("k0001", "confirm", "0001"),
        ("k0002", "confirm", "0003"),
        ("k0003", "confirm", "0003"),
    ]
    assert tickets[0].recipe == tickets[1].recipe == ledger.recipe("0001")
    assert len({t.seed for t in tickets} | {r["seed"] for r in chosen}) == 6
    assert [r["confirms"] for r in ledger.rows("confirm")] == ["0001", "0001", "0003", "0003"]
    assert len(ledger.rows()) == len(ledger._search.trials) == 4
    ledger.close()
    again = Ledger(tmp_path, study_file(confirm_seeds=2))
    assert again.ask_confirm(front(again, "0001", "0003")) is None
    assert again.ask_confirm(front(again, "0000")).seed not in {t.seed for t in tickets}


def test_a_lost_confirmation_runs_again_with_its_seed_and_is_given_up_after_two(tmp_path):
    seeds = []
    for _ in range(2):
        ledger = Ledger(tmp_path, study_file(trials=1, confirm_seeds=1))
        drain(ledger)
        seeds.append(ledger.ask_confirm(front(ledger, "0000")).seed)
        assert ledger.ask_confirm(front(ledger, "0000")) is None  # it runs
        ledger.close()
    ledger = Ledger(tmp_path, study_file(trials=1, confirm_seeds=1))
    assert seeds[0] == seeds[1]
    assert ledger.ask_confirm(front(ledger, "0000")) is None
    (only,) = ledger.rows("confirm")
    assert (only["state"], only["error"]) == ("failed", "lost with its driver 2 times")
    assert only["confirms"] == "0000"


def test_cut_networks_of_the_front_are_trained_from_scratch_once(tmp_path):
    ledger = Ledger(tmp_path, study_file())
    while ticket := ledger.ask():
        granularity = "channel" if ticket.trial_id in ("0001", "0002") else "weight"
        ledger.tell(ticket, row() | {"granularity": granularity}, [])
    everything = ledger.rows()
    tickets = [ledger.ask_scratch(everything) for _ in range(3)]
    assert tickets[2] is None
    assert [(t.control, t.confirms, t.recipe) for t in tickets[:2]] == [
        ("scratch", "0001", ledger.recipe("0001")),
        ("scratch", "0002", ledger.recipe("0002")),
    ]
    ledger.tell(tickets[0], row(), [])
    assert [(r["schedule"], r["confirms"]) for r in ledger.rows("control")] == [("scratch", "0001")]
    assert ledger.ask_control("dense", {"sparsity": 0.0}).control == "dense"


def test_a_stopped_trial_is_no_result(tmp_path):
    ledger = Ledger(tmp_path, study_file())
    ledger.tell(ledger.ask(), row(0.9, state="stopped"), [{"epoch": 1}])
    assert [(r["state"], r["feasible"]) for r in ledger.rows()] == [("stopped", False)]
    assert [t.state.name for t in ledger._search.trials] == ["PRUNED"]


def test_a_disk_that_fills_stops_the_study_and_loses_nothing(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path, study_file())
    ledger.tell(ledger.ask(), row(), [])
    ticket, whole = ledger.ask(), (tmp_path / "optuna.journal").read_bytes()
    full = Full(ledger._journal._file, 20)
    monkeypatch.setattr(ledger._journal, "_file", full)
    with pytest.raises(OSError, match="No space left"):
        ledger.tell(ticket, row(), [])
    assert (tmp_path / "optuna.journal").read_bytes() == whole
    monkeypatch.undo()
    ledger.close()
    again = Ledger(tmp_path, study_file())
    assert len(again.rows()) == 1
    tickets = drain(again)
    assert (tickets[0].recipe, tickets[0].seed) == (ticket.recipe, ticket.seed)
    assert len(again.rows()) == 4


class Full:
    """A file on a disk that has room for a few more bytes."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, content):
        if not self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self._file.write(content[: self._room])
        self._room -= count
        return count

    def fileno(self):
        return self._file.fileno()


def test_ids_are_in_order_beyond_the_ten_thousandth():
    assert in_order(["10000", "0002", "9999", "c0001"]) == ["0002", "9999", "10000", "c0001"]

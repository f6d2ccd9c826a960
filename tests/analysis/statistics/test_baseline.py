"""When the baseline's accuracies say little: at chance, or measured on images that it may have learnt from."""

from pathlib import Path
from typing import Any

import pytest

from analysis import read, tables
from analysis.page.answer import answer
from analysis.page.page import page
from analysis.statistics.baseline import at_chance, flattered
from tests.results_folder import make


@pytest.mark.parametrize(
    ("accuracy", "share", "images", "expected"),
    [
        (0.16, 0.1, 100, True),  # the standard error of 10 % among 100 images is 3 points
        (0.17, 0.1, 100, False),
        (0.05, 0.1, 100, True),
        (0.11, 0.1, 100_000, False),
        (0.60, 0.5, 100, True),  # 5 points
        (0.61, 0.5, 100, False),
        (1.0, 1.0, 9, True),  # one class alone: nothing can be learnt from it
    ],
)
def test_chance_is_the_largest_class_and_two_standard_errors(
    accuracy: float, share: float, images: int, expected: bool
) -> None:
    told = at_chance({"accuracy": accuracy, "largest_class": share, "validation_images": images})
    assert bool(told) == expected
    assert not expected or f"its accuracy on {images:,} validation images is {100 * accuracy:.1f} %" in told


@pytest.mark.parametrize("missing", ["accuracy", "largest_class", "validation_images"])
def test_of_a_baseline_that_was_measured_before_nothing_is_said(missing: str) -> None:
    known = {"accuracy": 0.1, "largest_class": 0.1, "validation_images": 100}
    assert at_chance(known)
    assert at_chance({**known, missing: None}) == ""
    assert at_chance({key: value for key, value in known.items() if key != missing}) == ""


def test_only_weights_from_a_file_may_have_seen_images_that_are_cut_from_train() -> None:
    assert "baseline.checkpoint may have been trained" in flattered({"checkpoint": "a.pt"}, {})
    assert "baseline.init_from may have been trained" in flattered({"init_from": "a.pt"}, {"validation": "split"})
    assert flattered({"checkpoint": "a.pt"}, {"validation": "folder"}) == ""
    assert flattered({"checkpoint": None, "weights": "DEFAULT"}, {}) == ""


@pytest.mark.parametrize("study", [{}, {"trials": 4, "failed": 4}, {"trials": 5, "seeds": 3}])
def test_over_a_baseline_at_chance_nothing_is_called_a_gain(tmp_path: Path, study: dict[str, Any]) -> None:
    results = read(make(tmp_path / "study", **study, baseline_accuracy=0.1, accuracy_drop=-0.8))
    dense = {**results.record["baseline"], "accuracy": 0.1, "test_accuracy": 0.1}
    assert "at chance" not in answer(results._replace(record={**results.record, "baseline": dense}))[0]
    dense |= {"largest_class": 0.1, "validation_images": 180}
    results = results._replace(record={**results.record, "baseline": dense})
    told, limits = answer(results)
    assert told.startswith("The baseline is at chance: its accuracy on 180 validation images is 10.0 %")
    assert "Trials: " in limits
    assert told in tables.summary(results).caption
    written = page(results, {}, {})
    assert f'<p class="answer">{told}</p>' in written
    assert "gain" not in written.split("<nav")[0].replace("costs or gains cannot be told", "")


def test_beside_the_accuracies_it_says_what_a_checkpoint_may_have_seen(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study"))
    assert "may have been trained" not in answer(results)[1]
    given = {**results.study, "baseline": {**results.study["baseline"], "checkpoint": "resnet20.pt"}}
    results = results._replace(study=given)
    sentence = "The weights of baseline.checkpoint may have been trained on the validation images"
    assert sentence in answer(results)[1]
    assert sentence in tables.summary(results).caption

"""What is said about a study before it runs."""

from typing import Any

import pytest

from study.config import parse
from study.driver.resolution import short_budget


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"schedule": "iterative", "steps": 5, "finetune_epochs": 2}, "up to 5 cuts share 2 fine-tuning epochs"),
        ({"schedule": ["one_shot", "gradual"], "steps": [2, 4], "finetune_epochs": [3, 8]}, "up to 4 cuts share 3"),
        ({"schedule": "iterative", "steps": 3, "finetune_epochs": 3}, ""),
        ({"schedule": "iterative", "steps": 3, "finetune_epochs": 0}, ""),
        ({"schedule": "iterative", "steps": 3, "epochs_per_step": 1}, ""),
        ({"schedule": "one_shot", "finetune_epochs": 1}, ""),
    ],
)
def test_less_than_an_epoch_after_each_cut_is_said(space: Any, said: str) -> None:
    note = short_budget(parse({"study": {"name": "x"}, "space": space}, "x.yaml"))
    assert bool(note) == bool(said)
    assert said in note

"""What the tests of malformed input share."""

import pytest

from study.driver import dry_run


@pytest.fixture(autouse=True)
def no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dry run's timing of the network takes seconds and reads nothing."""
    monkeypatch.setattr(dry_run, "_pace", lambda *_: dry_run.Pace(1e-3, 1e-3))

"""What the signals do that ask a process to end, in processes of their own."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import signal, sys, time
from study.driver.interruption import interruptible
{before}
with interruptible() as interruption:
    try:
        print("ready", flush=True)
        time.sleep({seconds})
    except KeyboardInterrupt:
        print("ending", flush=True)
        {after}
    sys.exit(interruption.exit_code)
"""


def run(*signals: Any, before: Any = "", after: Any = "", seconds: Any = 20) -> Any:
    """The output and exit code of a program that gets these signals, one after each line that it prints."""
    code = PROGRAM.format(before=before, after=after, seconds=seconds)
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipe) as process:
        lines = []
        for sent in signals:
            lines.append(process.stdout.readline().strip())
            process.send_signal(sent)
        lines += process.stdout.read().splitlines()
    return lines, process.returncode


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda value: str(value)
)
def test_the_first_signal_ends_it_in_order(sent: Any, code: Any) -> None:
    assert run(sent) == (["ready", "ending"], code)


def test_the_second_ends_it_at_once_and_in_silence() -> None:
    assert run(signal.SIGINT, signal.SIGINT, after="time.sleep(20)") == (["ready", "ending"], 130)
    assert run(signal.SIGTERM, signal.SIGINT, after="time.sleep(20)") == (["ready", "ending"], 143)


def test_one_that_does_not_end_is_ended() -> None:
    impatient = "from study.driver import interruption as module; module.PATIENCE = 0.5"
    hangs = "interruption.message = 'by force'; time.sleep(20)"
    lines, code = run(signal.SIGTERM, before=impatient, after=hangs)
    assert (lines, code) == (["ready", "ending", "by force", "(it hung in <string>:11 <module>)"], 143)
    in_time = "time.sleep(0.1)"
    assert run(signal.SIGTERM, before=impatient, after=in_time) == (["ready", "ending"], 143)


def test_it_outlives_its_terminal_under_nohup() -> None:
    nohup = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    assert run(signal.SIGHUP, before=nohup, seconds=0.5)[0] == ["ready"]


def test_handlers_are_as_before_afterwards() -> None:
    from study.driver.interruption import SIGNALS, interruptible

    before = [signal.getsignal(one) for one in SIGNALS]
    with interruptible() as interruption:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert interruption.happened()
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_rays_handler_while_it_starts_is_an_interruption_too() -> None:
    from study.driver.interruption import Interruption

    interruption = Interruption()
    with pytest.raises(KeyboardInterrupt), interruption.while_ray_starts():
        sys.exit(signal.SIGTERM)  # as `ray.init` handles the signal
    assert interruption.exit_code == 143
    with pytest.raises(SystemExit, match="^2$"), interruption.while_ray_starts():
        sys.exit(2)

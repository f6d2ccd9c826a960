"""Signals that ask a study to end: the first one ends it in order, the next one, or a lack of progress, at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# Ctrl-C; a scheduler's end of time; a closed terminal, of which Windows has no signal.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

# Seconds that the end in order may take; schedulers kill what is left 30 seconds after SIGTERM.
PATIENCE = 20.0


class Interruption:
    """Raises KeyboardInterrupt in the main thread at the first of SIGNALS, and ends the process at the second.

    Also ends it if it has not ended PATIENCE seconds after the first, as a call into Ray may never return.

    Attributes:
      received: the signal; None so far.
      message: printed if the process is ended after PATIENCE.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.message = "ended by force"
        self._first, self._over = threading.Event(), threading.Event()
        ends = (signal.SIGINT, signal.SIGTERM)
        self._signals = [one for one in SIGNALS if one in ends or signal.getsignal(one) != signal.SIG_IGN]  # `nohup`

    def install(self) -> None:
        """Handle the signals from here on; again after Ray has started, which installs handlers of its own."""
        if threading.current_thread() is threading.main_thread():
            for one in self._signals:
                signal.signal(one, self._handle)

    @contextmanager
    def while_ray_starts(self) -> Iterator[None]:
        """Turns SystemExit(SIGTERM) into KeyboardInterrupt: Ray's handler raises it until `install` is called again."""
        try:
            yield
        except SystemExit as error:
            if error.code != signal.SIGTERM:
                raise
            self.received = signal.SIGTERM
            raise KeyboardInterrupt from None

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Ends the process PATIENCE seconds after the first signal unless this context has ended by then."""
        threading.Thread(target=self._end_late, name="interruption", daemon=True).start()
        try:
            yield
        finally:
            self._over.set()
            self._first.set()

    def happened(self) -> bool:
        """Whether one of the signals was received."""
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal, as a shell reports it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.received or signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            os._exit(self.exit_code)  # Ray's processes end with this one; the next run removes its scratch folder
        self.received = signal.Signals(number)
        self._first.set()
        if self.received.name == "SIGHUP" and sys.stdout.isatty():  # there is no terminal any more
            sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
        raise KeyboardInterrupt

    def _end_late(self) -> None:
        self._first.wait()
        if not self._over.wait(PATIENCE):
            stack = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident or 0])
            where = ", ".join(f"{Path(call.filename).name}:{call.lineno} {call.name}" for call in stack[-6:])
            try:
                print(f"{self.message}\n(it hung in {where})", flush=True)
            finally:  # its terminal may be gone
                os._exit(self.exit_code)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Handles SIGNALS in this context, and as before after it."""
    before = {one: signal.getsignal(one) for one in SIGNALS}
    interruption = Interruption()
    interruption.install()
    try:
        with interruption.limited():
            yield interruption
    finally:
        if threading.current_thread() is threading.main_thread():
            for one, handler in before.items():
                signal.signal(one, handler if handler is not None else signal.SIG_DFL)  # None: not set by Python

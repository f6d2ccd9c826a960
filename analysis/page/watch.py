"""Serves the report page on localhost while a study runs, and rebuilds it when trials.csv changes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

POLL_SECONDS = 5.0  # between checks of trials.csv
# The browser polls the page's modification time and reloads when it changes; page.js opens again what was open.
PROGRAM = """
let made = null;
setInterval(async () => {
  try {
    const now = await (await fetch("made")).text();
    if (made !== null && now !== made) location.reload();
    made = now;
  } catch { /* the server has stopped: keep the page as it is */ }
}, 3000);
"""


def server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """An HTTP server on 127.0.0.1, not yet running: report.html at /, its modification time at /made.

    Raises OSError if the port is in use.
    """
    page = folder / "report.html"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/":
                self._answer("text/html; charset=utf-8", page.read_bytes())
            elif self.path == "/made":
                self._answer("text/plain", str(page.stat().st_mtime_ns).encode())
            else:
                self.send_error(404)

        def _answer(self, kind: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: the browser polls, and its requests would scroll the address out of view."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def serve(folder: Path, remake: Callable[[], object], port: int = 0, *, stop: threading.Event | None = None) -> None:
    """Serve the page and rebuild it whenever trials.csv changes, until Ctrl-C or `stop`.

    Args:
      folder: a results folder with a report.html.
      remake: rebuilds the page. On ValueError (a half-written file) or OSError (a full disk) the old page stays and a
        line goes to stderr.
      port: 0 for any free port.
      stop: ends serving when set.
    """
    ended = stop or threading.Event()
    with server(folder, port) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{http.server_address[1]}/  (Ctrl-C to stop)", flush=True)
        seen = _modified_ns(folder)
        try:
            while not ended.wait(POLL_SECONDS):
                if (now := _modified_ns(folder)) != seen:
                    seen = now
                    try:
                        remake()
                    except (ValueError, OSError) as error:
                        print(f"page not rebuilt: {error}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            pass
        finally:
            http.shutdown()


def _modified_ns(folder: Path) -> int:
    return (folder / "trials.csv").stat().st_mtime_ns

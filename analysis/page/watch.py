"""The page while a study runs: served on this machine alone, remade when the study has new rows."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

EVERY = 5.0  # seconds between two looks at trials.csv
# The browser asks for the page's age and loads it anew once that has changed; what was opened is closed by that.
PROGRAM = """
let made = null;
setInterval(async () => {
  try {
    const now = await (await fetch("made")).text();
    if (made !== null && now !== made) location.reload();
    made = now;
  } catch { /* the study's machine is gone: the page stays as it is */ }
}, 3000);
"""


def server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of report.html at /, and of the time it was made at /made; on 127.0.0.1. Not yet serving.

    Raises OSError where the port is taken.
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
            """Nothing: a line for every look of the browser would bury the address."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def serve(folder: Path, remake: Callable[[], object], port: int = 0, *, stop: threading.Event | None = None) -> None:
    """Serve the page, and `remake` it whenever trials.csv has changed, until Ctrl-C or `stop`.

    A study that is caught half-way, or a full disk, leaves the page as it was, and a line on stderr.
    """
    ended = stop or threading.Event()
    with server(folder, port) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{http.server_address[1]}/  (Ctrl-C ends it)", flush=True)
        seen = _stamp(folder)
        try:
            while not ended.wait(EVERY):
                if (now := _stamp(folder)) != seen:
                    seen = now
                    try:
                        remake()
                    except (ValueError, OSError) as error:
                        print(f"not remade: {error}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            pass
        finally:
            http.shutdown()


def _stamp(folder: Path) -> int:
    return (folder / "trials.csv").stat().st_mtime_ns

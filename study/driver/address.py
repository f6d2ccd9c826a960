"""Checks the address of a Ray cluster before anything is written, or Ray imported."""

from __future__ import annotations

import os
import re
import socket

from study.config import RefusedError

_SECONDS = 5.0  # that a host may take to accept a connection
_RAY_CLIENT = (
    "a study does not run through Ray Client; run the command on the head node with --address auto, or submit it: "
    "ray job submit --address http://HEAD:8265 --working-dir . -- python -m ..."
)


def check(address: str | None) -> None:
    """Raise RefusedError unless `address` is None, `auto`, or HOST:PORT where something accepts connections."""
    if address is None:
        return
    # Ray reads it when it is imported. Where something accepts connections that is no Ray, it waits for 15 s, not 21.
    os.environ.setdefault("RAY_gcs_rpc_server_connect_timeout_s", "2")
    if address.startswith("ray://"):
        raise RefusedError(f"--address {address}: {_RAY_CLIENT}")
    if address != "auto":
        _connect(address, "--address")
    elif given := os.environ.get("RAY_ADDRESS"):  # Ray takes it for `auto`
        _connect(given, "--address auto, RAY_ADDRESS")


def _connect(address: str, key: str) -> None:
    found = re.fullmatch(r"\[?([^\[\]/\s]+?)\]?:(\d{1,5})", address)
    if not found or not 0 < int(found[2]) < 65536:
        raise RefusedError(f"{key} {address!r}: expected auto, or HOST:PORT of a cluster's head, such as 10.0.0.1:6379")
    try:
        socket.create_connection((found[1], int(found[2])), _SECONDS).close()
    except (OSError, UnicodeError) as error:  # a name that is unknown, nobody at that port, no answer in time
        reason = "no answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or str(error)
        raise RefusedError(
            f"{key} {address}: cannot connect to {found[1]}, port {found[2]}: {reason}; give the address that "
            f"`ray start --head` printed on the first machine, and see that its port is open"
        ) from None

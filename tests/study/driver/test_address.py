"""Addresses of Ray clusters that are wrong, told apart before anything is written."""

import os
import socket
import time
from typing import Any

import pytest

from study.config import RefusedError
from study.driver import address


@pytest.fixture(autouse=True)
def unchanged_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.mark.parametrize("given", ["", "head", "local", ":6379", "head:", "head:abc", "head:99999", "head:0", "a b:1",
                                   "http://head:8265", "10.0.0.1", "::"])  # fmt: skip
def test_what_is_no_address_is_refused_with_the_form_of_one(given: Any) -> None:
    with pytest.raises(RefusedError, match=f"--address '{given}': expected auto, or HOST:PORT"):
        address.check(given)


def test_a_client_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(RefusedError, match="does not run through Ray Client; run the command on the head node"):
        address.check("ray://head:10001")


def test_where_something_listens_ray_is_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listening = f"127.0.0.1:{server.getsockname()[1]}"
        for given in (None, "auto", listening):
            address.check(given)
        os.environ["RAY_ADDRESS"] = listening
        address.check("auto")
    with pytest.raises(RefusedError, match=f"--address {listening}: cannot connect .*: Connection refused; give"):
        address.check(listening)
    with pytest.raises(RefusedError, match=f"--address auto, RAY_ADDRESS {listening}: cannot connect"):
        address.check("auto")


@pytest.mark.parametrize("name", ["nowhere.invalid", 70 * "n"])
def test_a_name_that_nobody_has_is_named(name: Any) -> None:
    with pytest.raises(RefusedError, match=f"--address {name}:6379: cannot connect to {name}, port 6379"):
        address.check(f"{name}:6379")


def test_a_host_that_does_not_answer_is_waited_for_in_vain_but_not_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, socket.socket() as first, socket.socket() as more:
        for full in (first, more):  # its queue; who knocks then gets no answer
            full.setblocking(False)
            full.connect_ex(server.getsockname())
        started = time.monotonic()
        with pytest.raises(RefusedError, match="no answer; give the address"):
            address.check(f"127.0.0.1:{server.getsockname()[1]}")
    assert time.monotonic() - started < 5

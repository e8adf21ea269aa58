"""Ray on this machine: tried again where it does not come up, and never open to others."""

import socket
import subprocess
import types

import pytest
import ray

from grid.events import LaunchError
from grid.launch import own_ray as module
from grid.launch.cluster import check_reachable
from tta_core.errors import InputError


class Stubborn:
    """Stands for Ray, which leaves a process behind at each try that fails."""

    def __init__(self, failures: int) -> None:
        self._private = types.SimpleNamespace(parameter=types.SimpleNamespace(RayParams=dict))
        self._failures = failures
        self.left: list[subprocess.Popen[bytes]] = []
        self.tries = 0

    def init(self, *given, **options):
        assert self._private.parameter.RayParams() == {"no_monitor": True, "include_log_monitor": False}
        self.tries += 1
        if self.tries <= self._failures:
            self.left.append(subprocess.Popen(["sleep", "60"]))
            raise Exception(f"try {self.tries} timed out\nmore words")

    def shutdown(self):
        pass


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(module, "PAUSES", (0, 0, 0))


def test_ray_that_does_not_come_up_is_started_again_and_leaves_nothing(tmp_path):
    stubborn = Stubborn(failures=2)
    module._start(stubborn, tmp_path)
    assert stubborn.tries == 3
    assert [process.poll() is None for process in stubborn.left] == [False, False]
    assert stubborn._private.parameter.RayParams is dict


def test_after_three_tries_it_is_one_message(tmp_path):
    stubborn = Stubborn(failures=9)
    with pytest.raises(LaunchError, match=r"did not start on this machine, tried 3 times \(try 3 timed out\): "):
        module._start(stubborn, tmp_path)
    assert [process.poll() is None for process in stubborn.left] == [False] * 3


def test_ray_that_would_listen_to_others_is_not_started(monkeypatch):
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.7")
    with pytest.raises(InputError, match=r"would listen on all interfaces.*launch in a process"), module.own_ray():
        pass


@pytest.fixture
def head(monkeypatch, tmp_path):
    """Address at which something answers, and a user without a token."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_cluster_wants_a_token_unless_the_user_says_that_it_has_none(head, monkeypatch, tmp_path):
    with pytest.raises(InputError, match=r"no token for the Ray cluster.*get-auth-token.*RAY_AUTH_MODE=disabled"):
        check_reachable(head)
    with pytest.raises(InputError, match="no token for the Ray cluster at 'auto'"):
        check_reachable("auto")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    check_reachable(head)
    monkeypatch.delenv("RAY_AUTH_MODE")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a" * 64)
    check_reachable(head)

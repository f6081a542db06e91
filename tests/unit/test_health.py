"""The wait for the servers: until they answer, until systemd gives up, at most until the time limit."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from pipeline.base.errors import PipelineError
from pipeline.hosts import health
from pipeline.hosts.health import UnitHealth, answer, wait

UNIT = "mistralrs-ada@qwen.service"
URL = "http://127.0.0.1:1/health"
HEALTHY = UnitHealth("active", job=False, answer="200")
LOADING = UnitHealth("active", job=False, answer="nothing (Connection refused)")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PAUSE", 0)


def waited(*checks: UnitHealth, timeout: float = 60) -> float:
    seen = iter(checks)
    return wait({UNIT: URL}, timeout, 3, check=lambda *_: next(seen), journal=lambda _, lines: f"{lines} lines")


def test_without_instances_the_wait_is_empty() -> None:
    assert wait({}, 0, 3) < 1


@pytest.mark.parametrize(
    "before",
    [LOADING, UnitHealth("active", job=True, answer="200"), UnitHealth("activating", job=False, answer="200"),
     UnitHealth("active", job=False, answer="503"), UnitHealth("failed", job=True, answer="nothing")],
)  # fmt: skip
def test_an_instance_is_healthy_when_it_runs_and_answers_and_no_job_waits(before: UnitHealth) -> None:
    waited(before, before, HEALTHY)


def test_an_instance_that_systemd_gave_up_ends_the_wait() -> None:
    with pytest.raises(PipelineError) as error:
        waited(LOADING, UnitHealth("failed", job=False, answer="nothing (refused)"))
    assert error.value.what == (
        f"systemd gave up: {UNIT}: the unit is failed, /health answers nothing (refused); "
        "its journal ends with: 3 lines"
    )
    assert error.value.where == URL


def test_the_wait_has_a_limit() -> None:
    with pytest.raises(
        PipelineError, match="not healthy after 0 s: .*the unit is active.*longer mistralrs_health_timeout"
    ):
        waited(LOADING, LOADING, LOADING, timeout=0)


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 503)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield listener
        listener.shutdown()


def test_a_real_server_is_asked_without_a_proxy(
    server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    base = f"http://127.0.0.1:{server.server_port}"
    assert answer(f"{base}/health") == "200"
    assert answer(f"{base}/else") == "503"
    assert answer("http://127.0.0.1:1/health").startswith("nothing (")

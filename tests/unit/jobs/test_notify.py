"""Who is told what becomes of a run: what is said, and how often it is tried."""

import json
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

import jobs.notify
from jobs.errors import UserError
from jobs.masking import masker
from jobs.notify import Webhook, message_of, webhook_address
from jobs.observed import RunStatus, StageStatus
from jobs.spec.notify import NotifySpec
from jobs.state import FailureClass, RunState, StageState

HOOK = "https://hooks.example/services/T0/B0/very-secret"
SPEC = NotifySpec(webhook="${secret:HOOK_URL}")
MASK = masker(["HOOK_URL", "TOKEN"], {"HOOK_URL": HOOK, "TOKEN": "secret-word"})


def status(**stage: Any) -> RunStatus:
    """A run of two stages; the second one stands as given."""
    return RunStatus(
        run_id="20261123-1", name="bot", state=RunState.FAILED, digest="d",
        stages=(
            StageStatus(name="sft", kind="sft", state=StageState.SUCCEEDED),
            StageStatus(name="merge", kind="merge", **stage),
        ),
        created_at="2026-11-23T00:00:00Z", updated_at="2026-11-23T00:00:00Z",
    )  # fmt: skip


FAILED = status(
    state=StageState.FAILED,
    reason=FailureClass.STORAGE,
    message=f"no space is left with secret-word at s3://me:pass@host/bucket and {HOOK}",
)


def test_a_failure_is_told_with_its_reason_and_no_secret_or_address() -> None:
    message = json.loads(message_of("failed", FAILED, None, MASK).to_json())
    assert message["message"] == "no space is left with *** at (address) and ***"
    assert (message["run"], message["name"], message["state"]) == ("20261123-1", "bot", "failed")
    assert (message["stage"], message["reason"]) == ("merge", "storage")
    assert message["text"].startswith("bot/20261123-1 failed: stage merge: storage: no space")


def test_a_success_is_told_in_few_words() -> None:
    message = message_of("succeeded", status(state=StageState.SUCCEEDED), None, MASK)
    assert message.text == "bot/20261123-1 succeeded"


class Posts:
    """What was posted, and what came of it."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.slept: list[float] = []

    def post(self, address: str, body: bytes) -> int:
        self.sent.append((address, json.loads(body)))
        if self.errors:
            raise self.errors.pop(0)
        return 200

    def event(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))

    def tell(self, *on: Any, occasion: Any = "failed") -> None:
        hook = Webhook(HOOK, on, MASK, self.event, self.slept.append)
        hook.tell(occasion, FAILED)
        hook.wait()


@pytest.fixture
def posts(monkeypatch: pytest.MonkeyPatch) -> Posts:
    """Stands in for the network."""
    posts = Posts()
    monkeypatch.setattr(jobs.notify, "_post", posts.post)
    return posts


def test_what_is_wanted_is_posted(posts: Posts) -> None:
    posts.tell("failed", "stalled")
    ((address, message),) = posts.sent
    assert (address, message["state"]) == (HOOK, "failed")
    assert posts.events == [("notified", {"occasion": "failed", "status": 200})]
    posts.tell("succeeded")
    assert len(posts.sent) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HTTPError(HOOK, 503, "busy", {}, None), "HTTP 503"),  # type: ignore[arg-type]
        (URLError(ConnectionRefusedError(111, "refused")), "ConnectionRefusedError"),
        (TimeoutError(HOOK), "TimeoutError"),
        (ValueError(HOOK), "ValueError"),
    ],
)
def test_it_is_tried_three_times_and_never_raises(
    posts: Posts, error: Exception, reason: str
) -> None:
    posts.errors = [error] * 3
    posts.tell("failed")
    assert (len(posts.sent), posts.slept) == (3, [1, 2])
    assert posts.events == [("notify_failed", {"occasion": "failed", "reason": reason, "tries": 3})]
    posts.errors = [error]
    posts.tell("failed")
    assert posts.events[-1][0] == "notified"


@pytest.mark.parametrize(
    ("environ", "message"),
    [({}, "HOOK_URL is not set"), ({"HOOK_URL": "ftp://very-secret"}, "holds no http")],
)
def test_an_address_that_is_none_is_refused_before_anything_runs(
    environ: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        webhook_address(SPEC, environ)
    assert "very-secret" not in str(caught.value)
    assert webhook_address(SPEC, {"HOOK_URL": f" {HOOK}\n"}) == HOOK

"""What S3's errors come to."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore import exceptions as library

from jobs.errors import ExitCode, NotSupported, RaysmithError, StorageError, StorageRefused
from storage.s3_errors import clean, understand

PLACE = "s3://bucket/run/a"
SIGNED = "http://host/bucket/a?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE&X-Amz-Signature=f00dfeed"


def answer(code: str, status: int, message: str = "", **more: Any) -> library.ClientError:
    response: dict[str, Any] = {
        "Error": {"Code": code, "Message": message, **more},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
    }
    return library.ClientError(response, "PutObject")


@pytest.mark.parametrize(
    ("error", "said", "remedy"),
    [
        (answer("ExpiredToken", 400), "credentials have expired", "renew"),
        (answer("InvalidAccessKeyId", 403), "does not know the access key", "AWS_ACCESS_KEY_ID"),
        (answer("SignatureDoesNotMatch", 403), "secret key", "AWS_SECRET_ACCESS_KEY"),
        (answer("AccessDenied", 403), "may not PutObject", "s3:PutObject"),
        (answer("NoSuchBucket", 404), "no such bucket", "create the bucket"),
        (answer("XMinioStorageFull", 507), "disks are full", "room"),
        (answer("MethodNotAllowed", 405), "read-only", "written"),
        (answer("PermanentRedirect", 301), "another region", "AWS_REGION"),
        (answer("EntityTooLarge", 400, "too large"), "EntityTooLarge: too large", "check"),
        (library.NoCredentialsError(), "no credentials", "AWS_PROFILE"),
        (
            library.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
            "incomplete",
            "AWS_SECRET_ACCESS_KEY",
        ),
        (library.ProfileNotFound(profile="prod"), "no such profile", "AWS_PROFILE"),
    ],
)
def test_what_a_person_must_do_is_not_tried_again(error: Exception, said: str, remedy: str) -> None:
    trouble = understand(error, "PutObject", PLACE)
    assert isinstance(trouble.error, StorageRefused)
    assert trouble.error.exit_code is ExitCode.USER_ERROR
    assert not trouble.transient
    assert PLACE in trouble.error.message
    assert said in trouble.error.message
    assert remedy in (trouble.error.remedy or "")


@pytest.mark.parametrize(
    "error",
    [
        answer("SlowDown", 503),
        answer("InternalError", 200),
        answer("InternalError", 500),
        answer("RequestTimeout", 400),
        answer("BadDigest", 400),
        answer("ConditionalRequestConflict", 409),
        answer("Whatever", 502),
        answer("429", 429),
        library.EndpointConnectionError(endpoint_url="http://host:1"),
        library.ConnectionClosedError(endpoint_url=SIGNED),
        library.ReadTimeoutError(endpoint_url=SIGNED),
        library.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        library.ResponseStreamingError(error="reset"),
        library.FlexibleChecksumError(error_msg="differs"),
        ConnectionResetError(104, "reset"),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    trouble = understand(error, "GetObject", PLACE)
    assert isinstance(trouble.error, StorageError)
    assert trouble.transient
    assert trouble.error.remedy
    assert "f00dfeed" not in str(trouble.error)


def test_only_where_nobody_answered_is_the_service_unreachable() -> None:
    nobody = library.EndpointConnectionError(endpoint_url="http://host:1")
    assert understand(nobody, "GetObject", PLACE).unreachable
    assert "cannot be reached" in understand(nobody, "GetObject", PLACE).error.message
    assert not understand(answer("SlowDown", 503), "GetObject", PLACE).unreachable


@pytest.mark.parametrize("code", ["400", "403", "404"])
def test_a_refusal_without_a_reason_is_tried_a_little(code: str) -> None:
    trouble = understand(answer(code, int(code)), "GetObject", PLACE)
    assert isinstance(trouble.error, StorageRefused)
    assert (trouble.transient, trouble.unclear) == (True, True)


def test_a_storage_without_conditions_is_told_apart() -> None:
    trouble = understand(answer("NotImplemented", 501), "PutObject", PLACE)
    assert isinstance(trouble.error, NotSupported)
    assert not trouble.transient


@pytest.mark.parametrize(("ahead_s", "said"), [(1200, "1200 s ahead"), (-3600, "3600 s behind")])
def test_a_wrong_clock_is_told_by_how_much(ahead_s: int, said: str) -> None:
    there = datetime.now(UTC) - timedelta(seconds=ahead_s)
    told = answer("RequestTimeTooSkewed", 403, ServerTime=there.strftime("%Y-%m-%dT%H:%M:%SZ"))
    headers = answer("RequestTimeTooSkewed", 403)
    headers.response["ResponseMetadata"]["HTTPHeaders"]["date"] = there.strftime(
        "%a, %d %b %Y %H:%M:%S GMT"
    )
    for error in (told, headers):
        message = understand(error, "PutObject", PLACE).error.message
        number = int(message.split(" s ")[0].split()[-1])
        assert abs(number - abs(ahead_s)) <= 2, message
        assert said.split()[2] in message


def test_a_clock_is_wrong_also_where_the_answer_tells_no_time() -> None:
    trouble = understand(answer("RequestTimeTooSkewed", 403), "PutObject", PLACE)
    assert "clock of this machine is wrong (" in trouble.error.message


def test_no_secret_is_repeated() -> None:
    leaky = answer("Odd", 400, f"see {SIGNED} of AKIAIOSFODNN7EXAMPLE")
    errors: list[RaysmithError] = [understand(leaky, "PutObject", PLACE).error]
    errors.append(understand(library.HTTPClientError(error=SIGNED), "PutObject", PLACE).error)
    for error in errors:
        assert "f00dfeed" not in str(error)
        assert "AKIA" not in str(error)
    assert clean(SIGNED) == "http://host/bucket/a?..."

"""Secrets do not reach the record."""

import pytest

from jobs.masking import SECRETS_VARIABLE, masker, secret_names


def test_values_of_named_variables_are_hidden_the_longer_first() -> None:
    mask = masker(["A", "B", "UNSET"], {"A": "opensesame", "B": "opensesame-2", "C": "visible"})
    assert mask("x opensesame-2 opensesame visible") == "x *** *** visible"


def test_short_values_do_not_blot_out_ordinary_text() -> None:
    assert masker(["A", "B"], {"A": "a", "B": ""})("a plan") == "a plan"


@pytest.mark.parametrize(
    "token",
    [
        "hf_" + "aB3" * 10,
        "sk-" + "proj-a1B2" * 5,
        "AKIA" + "ABCD1234" * 2,
        "ghp_" + "a1" * 15,
        "github_pat_" + "a1_" * 10,
    ],
)
def test_well_known_tokens_are_hidden_wherever_they_stand(token: str) -> None:
    assert masker((), {})(f"header: Bearer {token}, done") == "header: Bearer ***, done"


@pytest.mark.parametrize("text", ["task-runner-for-the-night", "hf_hub", "disk-usage-of-all-hosts"])
def test_ordinary_words_stay(text: str) -> None:
    assert masker((), {})(text) == text


def test_references_name_the_variables() -> None:
    assert secret_names('a: ${secret:HF_TOKEN}\nb: "${secret:X}" ${env:Y}') == {"HF_TOKEN", "X"}


def test_variables_that_are_called_what_secrets_are_called_are_hidden() -> None:
    environ = {
        "HF_TOKEN": "value-one", "AWS_SECRET_ACCESS_KEY": "value-two", "DB_PASSWORD": "value-three",
        "HF_TOKEN_PATH": "/home/me/token", "TOKENIZERS_PARALLELISM": "parallel",
        "RAY_AUTH_MODE": "token-mode", "KEYBOARD": "qwerty-layout",
    }  # fmt: skip
    text = " ".join(environ.values())
    hidden = "*** *** *** /home/me/token parallel token-mode qwerty-layout"
    assert masker((), environ)(text) == hidden


def test_processes_are_told_the_names_of_a_runs_secrets() -> None:
    environ = {SECRETS_VARIABLE: "MY_HOOK,UNSET", "MY_HOOK": "https-hook", "OTHER": "visible"}
    assert masker((), environ)("https-hook visible") == "*** visible"

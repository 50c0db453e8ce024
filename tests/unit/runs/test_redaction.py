from __future__ import annotations

import pytest

from hart_studio.runs.redaction import has_secret, hide_cut_secrets, keep_environment, redact, redact_command

TOKEN = "hf_" + "aB3" * 8


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        f"401 for https://user:{TOKEN}@huggingface.co/x",
        "https://user:opensesame@host/data",
        "ghp_" + "x1" * 15,
        "sk-" + "a1" * 12,
        "AKIA" + "ABCD1234" * 2,
    ],
)
def test_a_token_form_is_found_and_hidden(text: str) -> None:
    assert has_secret(text)
    hidden = redact(text, {})
    assert not has_secret(hidden.replace("***@", ""))
    assert TOKEN not in hidden
    assert "opensesame" not in hidden


@pytest.mark.parametrize(
    "text", ["Qwen/Qwen2.5-VL-7B-Instruct", "data/hf_dataset/rows.jsonl", "https://host/a@b", "a risk-averse sk-model"]
)
def test_ordinary_names_are_left_alone(text: str) -> None:
    assert not has_secret(text)
    assert redact(text, {}) == text


def test_values_of_secret_variables_are_hidden_wherever_they_stand() -> None:
    environment = {"WANDB_API_KEY": "0123456789abcdef", "MY_TOKEN": "short", "HOME": "/home/me"}
    assert redact("login 0123456789abcdef from /home/me, short", environment) == "login *** from /home/me, short"


def test_the_command_keeps_its_form_and_loses_its_secrets() -> None:
    argv = [
        "python",
        "--token",
        "s3cret",
        "--api-key=s3cret",
        "WANDB_API_KEY=s3cret",
        TOKEN,
        "--hub-token",
        "--verbose",
        "rollout.max_answer_tokens=32",
        "optim.learning_rate=1e-5",
    ]
    assert redact_command(argv, {}) == [
        "python",
        "--token",
        "***",
        "--api-key=***",
        "WANDB_API_KEY=***",
        "***",
        "--hub-token",
        "--verbose",
        "rollout.max_answer_tokens=32",
        "optim.learning_rate=1e-5",
    ]


def test_only_variables_that_matter_are_kept() -> None:
    environment = {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "HF_TOKEN": TOKEN,
        "HF_HOME": "/cache",
        "HF_ENDPOINT": "https://me:pass@mirror",
        "HOME": "/home/me",
    }
    assert keep_environment(environment) == {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "HF_ENDPOINT": "https://***@mirror",
        "HF_HOME": "/cache",
    }


@pytest.mark.parametrize(
    "name",
    [
        "BASIC_AUTH_PASS", "OPENAI_API_KEYS", "GITHUB_PAT", "HF_TOKEN_2", "MY_CREDENTIALS", "SLACK_WEBHOOK_URL",
        "HF_PASS", "HF_API_KEY_PROD", "AWS_ACCESS_KEY_ID", "DB_PWD", "SENTRY_DSN", "hf_tokens",
    ],
)  # fmt: skip
def test_variables_are_secret_by_a_word_anywhere_in_their_name(name: str) -> None:
    assert redact("cannot reach plainvalue123", {name: "plainvalue123"}) == "cannot reach ***"
    assert keep_environment({name: "plainvalue123"}) == {}


@pytest.mark.parametrize("name", ["PATH", "PWD", "OLDPWD", "PYTHONPATH", "HOME", "LANG"])
def test_ordinary_variables_stay(name: str) -> None:
    assert redact("in /some/folder/here", {name: "/some/folder/here"}) == "in /some/folder/here"


def test_own_variables_with_the_prefix_of_a_library_are_not_kept() -> None:
    environment = {"HF_HUB_OFFLINE": "1", "HF_MINE": "plainvalue123", "HF_HOME": "/cache"}
    assert keep_environment(environment) == {"HF_HOME": "/cache", "HF_HUB_OFFLINE": "1"}


def test_headers_and_webhooks_are_hidden() -> None:
    for text in ("Authorization: Bearer abcdefghijklmnopqr", "https://hooks.slack.com/services/T000/B000/XXXX"):
        assert "***" in redact(text, {}) and "XXXX" not in redact(text, {}) and "abcdef" not in redact(text, {})


def test_options_are_secret_by_a_word_and_settings_about_tokens_are_not() -> None:
    argv = ["--served-key", "a", "--api_key_file=x", "--max-new-tokens", "32", "objective.loss_aggregation=true"]
    assert redact_command(argv, {}) == ["--served-key", "***", "--api_key_file=***", *argv[3:]]


@pytest.mark.parametrize("cut", range(1, 27))
def test_a_secret_that_is_read_in_two_parts_is_hidden(cut: int) -> None:
    environment, text = {"PROXY_PASSWORD": "S3cretValueOfProxy99"}, "proxy S3cretValueOfProxy99!"
    first, held = hide_cut_secrets(text[:cut], environment)
    second, _ = hide_cut_secrets(text[len(text[:cut]) - held :], environment)
    assert "S3cret" not in first + second and "Proxy99" not in first + second
    assert second.endswith("!")
    if held == 0 and cut <= 5:
        assert first + second == "proxy ***!"

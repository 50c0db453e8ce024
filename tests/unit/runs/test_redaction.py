from __future__ import annotations

import pytest

from hart_studio.runs.redaction import has_secret, keep_environment, redact, redact_command

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
def test_what_looks_like_a_token_is_found_and_hidden(text: str) -> None:
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

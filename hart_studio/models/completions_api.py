"""Chat Completions API: build requests, validate responses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from hart_studio.errors import InputError, ModelError
from hart_studio.models.chat import ChatRequest, ImageInput, SamplingParams
from hart_studio.models.served_images import SentImage
from hart_studio.models.served_settings import ServedSettings


@dataclass(frozen=True)
class Choice:
    """One completion of a response."""

    text: str
    finish_reason: Literal["stop", "length"]
    completion_tokens: int
    """Share of the tokens that the response counts; 0 if the server does not report them."""


@dataclass(frozen=True)
class ParsedCompletion:
    """Parsed response to one request."""

    choices: tuple[Choice, ...]
    prompt_tokens: int
    """0 if the server does not report it."""


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    index: int = 0
    message: _Message
    finish_reason: str


class _Usage(BaseModel):
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class _CompletionBody(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


def build_messages(request: ChatRequest, sent: Sequence[SentImage]) -> list[dict[str, Any]]:
    """Build the messages of a conversation, texts and images in order.

    Control tokens inside a text cannot be neutralized here: the tokenizer of the server interprets them.

    Args:
        request: The conversation; it must end with a user message.
        sent: Its images, in order of appearance.

    Raises:
        InputError: If it does not end with a user message, or an assistant message contains an image.
    """
    if not request.messages or request.messages[-1].role != "user":
        raise InputError("The conversation must end with a user message. Append the question.")
    waiting = iter(sent)
    messages: list[dict[str, Any]] = []
    for message in request.messages:
        if message.role == "user":
            content: Any = [
                {"type": "text", "text": part}
                if isinstance(part, str)
                else {"type": "image_url", "image_url": {"url": next(waiting).url}}
                for part in message.parts
            ]
        elif any(isinstance(part, ImageInput) for part in message.parts):
            raise InputError("Only user messages may contain images. Move the image out of the assistant message.")
        else:
            content = "".join(part for part in message.parts if isinstance(part, str))
        messages.append({"role": message.role, "content": content})
    return messages


def build_body(
    messages: list[dict[str, Any]],
    model: str,
    sampling: SamplingParams,
    settings: ServedSettings,
    seed: int | None,
    n: int,
) -> dict[str, Any]:
    """Build the body of one request.

    Args:
        messages: From ``build_messages``.
        model: Name of the model on the server.
        sampling: Decoding settings; its seed is ignored.
        settings: Settings of the server.
        seed: Seed of this request; None for greedy decoding.
        n: Number of completions.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": sampling.temperature,
        "top_p": 1.0,  # otherwise servers use the value of the checkpoint
        settings.max_tokens_field: sampling.max_new_tokens,
        "stream": False,
    }
    if seed is not None:
        body["seed"] = seed
    if n > 1:
        body["n"] = n
    return {**body, **_sampling_fields(sampling, settings), **settings.extra_fields}


def completion_seed(seed: int, request_index: int, completion_index: int) -> int:
    """Seed for one completion of a call, below 2**31, which every server accepts.

    Args:
        seed: Seed of the whole call.
        request_index: Index of the request in the call, from 0.
        completion_index: Index of the completion in its group, from 0.
    """
    digest = hashlib.sha256(f"{seed} {request_index} {completion_index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def parse_completion(content: bytes, n: int, url: str) -> ParsedCompletion:
    """Parse the response to a request for ``n`` completions.

    Args:
        content: Response body, JSON.
        n: Number of requested completions.
        url: URL of the server, for messages.

    Raises:
        ModelError: If it is invalid, has another number of completions, or a completion ended for another reason than
            stop or length.
    """
    try:
        reply = _CompletionBody.model_validate_json(content)
    except ValidationError as error:
        raise ModelError(
            f"The response from {url} is not a chat completion ({_first_error(error)}). "
            "Check that the URL is the base URL of an OpenAI-compatible API."
        ) from None  # the message is complete, and the response may be large
    if len(reply.choices) != n:
        raise ModelError(
            f"expected {n} completions of one request from {url}, got {len(reply.choices)}. "
            "Set supports_n (--served-n) only for a server that returns several completions."
        )
    usage = reply.usage or _Usage()
    share, rest = divmod(usage.completion_tokens, n)
    choices = []
    for number, choice in enumerate(sorted(reply.choices, key=lambda choice: choice.index)):
        if choice.finish_reason not in ("stop", "length"):
            raise ModelError(
                f"{url} ended a completion with {choice.finish_reason[:40]!r} instead of stop or length. "
                "Disable tools and filters of the server."
            )
        reason: Literal["stop", "length"] = "stop" if choice.finish_reason == "stop" else "length"
        choices.append(Choice(choice.message.content or "", reason, share + (number < rest)))
    return ParsedCompletion(tuple(choices), usage.prompt_tokens)


def parse_single_model(content: bytes, url: str) -> str:
    """Name of the only model in a model list.

    Raises:
        ModelError: If the response is invalid, or lists no model or several.
    """
    try:
        names = [model.id for model in _Models.model_validate_json(content).data]
    except ValidationError as error:
        raise ModelError(
            f"The response from {url} is not a model list ({_first_error(error)}). Give the name of the model."
        ) from None
    if len(names) != 1:
        listed = ", ".join(name[:80] for name in names[:5]) or "none"
        raise ModelError(f"{url} lists {listed} instead of one model. Give the name of the model.")
    return names[0]


def _sampling_fields(sampling: SamplingParams, settings: ServedSettings) -> dict[str, Any]:
    """Fields that disable the generation settings of the checkpoint, for servers that support them."""
    if settings.server == "transformers":
        # Other settings, such as the end tokens, still come from the checkpoint.
        plain = {"do_sample": sampling.temperature > 0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
        return {"generation_config": json.dumps(plain)}
    if settings.server in ("vllm", "sglang"):
        fields: dict[str, Any] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
        if settings.family_row.box_tags:
            fields["skip_special_tokens"] = False
        return fields
    return {}


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"[:200]

"""The words of the chat completions interface: what a request says, and what a reply must."""

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
    """One completion of a reply."""

    text: str
    finish_reason: Literal["stop", "length"]
    completion_tokens: int
    """Its share of what the reply counts; 0 when the server does not count."""


@dataclass(frozen=True)
class ParsedCompletion:
    """A reply to one request."""

    choices: tuple[Choice, ...]
    prompt_tokens: int
    """0 when the server does not count."""


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
    """The conversation, its texts and images in their order.

    Control tokens inside a text cannot be made harmless here: the server's tokenizer reads them as it likes.

    Args:
        request: The conversation; it must end with a user message.
        sent: Its images, in order of appearance.

    Raises:
        InputError: If it does not end with a user message, or the model is made to show an image.
    """
    if not request.messages or request.messages[-1].role != "user":
        raise InputError("expected a conversation that ends with a user message, got another end; append the question")
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
            raise InputError("expected images in user messages only, got one in an assistant's; move it")
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
    """One request.

    Args:
        messages: From ``build_messages``.
        model: What the server calls the model.
        sampling: Decoding settings; its seed is not read.
        settings: Of the server.
        seed: Of this request; None for greedy ones.
        n: Completions.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": sampling.temperature,
        "top_p": 1.0,  # servers fill in the checkpoint's own value otherwise
        settings.max_tokens_field: sampling.max_new_tokens,
        "stream": False,
    }
    if seed is not None:
        body["seed"] = seed
    if n > 1:
        body["n"] = n
    return {**body, **_sampling_fields(sampling, settings), **settings.extra_fields}


def completion_seed(seed: int, request_index: int, completion_index: int) -> int:
    """A seed for one completion of a call, below 2**31, which every server takes.

    Args:
        seed: Of the whole call.
        request_index: Place of the request in the call, from 0.
        completion_index: Place of the completion in its group, from 0.
    """
    digest = hashlib.sha256(f"{seed} {request_index} {completion_index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def parse_completion(content: bytes, n: int, url: str) -> ParsedCompletion:
    """Read a reply to a request for ``n`` completions.

    Args:
        content: JSON.
        n: Completions that were asked for.
        url: Where it comes from, for messages.

    Raises:
        ModelError: If it is no such reply, holds another number of completions, or one did not end as text does.
    """
    try:
        reply = _CompletionBody.model_validate_json(content)
    except ValidationError as error:
        raise ModelError(
            f"expected a chat completion from {url}, got another answer ({_first_error(error)}); "
            "check that the URL is the beginning of an interface like OpenAI's"
        ) from None  # the fault says it all, and the whole reply may be large
    if len(reply.choices) != n:
        raise ModelError(
            f"expected {n} completions of one request from {url}, got {len(reply.choices)}; "
            "set supports_n only for a server that gives several"
        )
    usage = reply.usage or _Usage()
    share, rest = divmod(usage.completion_tokens, n)
    choices = []
    for number, choice in enumerate(sorted(reply.choices, key=lambda choice: choice.index)):
        if choice.finish_reason not in ("stop", "length"):
            raise ModelError(
                f"expected an answer from {url} that ends with stop or length, got {choice.finish_reason[:40]!r}; "
                "switch tools and filters of the server off"
            )
        reason: Literal["stop", "length"] = "stop" if choice.finish_reason == "stop" else "length"
        choices.append(Choice(choice.message.content or "", reason, share + (number < rest)))
    return ParsedCompletion(tuple(choices), usage.prompt_tokens)


def parse_single_model(content: bytes, url: str) -> str:
    """The name of the only model in a list of models.

    Raises:
        ModelError: If it is no such list, or names none or several.
    """
    try:
        names = [model.id for model in _Models.model_validate_json(content).data]
    except ValidationError as error:
        raise ModelError(
            f"expected a list of models from {url}, got another answer ({_first_error(error)}); name the model"
        ) from None
    if len(names) != 1:
        listed = ", ".join(name[:80] for name in names[:5]) or "none"
        raise ModelError(f"expected one model at {url}, it lists {listed}; name the model")
    return names[0]


def _sampling_fields(sampling: SamplingParams, settings: ServedSettings) -> dict[str, Any]:
    """Fields that switch a checkpoint's own generation settings off, for servers that know such fields."""
    if settings.server == "transformers":
        # What is not in here, such as the end tokens, still comes from the checkpoint.
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

"""Chat model served by another process: vLLM, SGLang, ``transformers serve``, or any OpenAI-compatible endpoint.

Each completion is a separate request; requests run concurrently. Images are sent at the size at which an in-process
model would see them (``served_images``), or at the nearest one that the server keeps (``served_limits``), so the box
frame is known. What the server's chat template, tokenizer
and processor do is up to the server; text removed by its reasoning parser is not visible here.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from hart_studio.errors import InputError, ModelError
from hart_studio.geometry import BoxFrame
from hart_studio.models.chat import ChatRequest, Completion, ImageInput, Message, SamplingParams
from hart_studio.models.endpoint import Endpoint
from hart_studio.models.families import PixelBudget
from hart_studio.models.inputs import default_budget, images_of
from hart_studio.models.served_images import SentImage, SentImageCache, encode_image, encode_pixels
from hart_studio.models.served_limits import PROBE_TEXT, KeptTokens, ServerLimits
from hart_studio.models.served_settings import ServedSettings

_MAX_FRAME_ATTEMPTS: Final = 3
"""How often a request is sent whose connections were lost and whose server then kept other sizes."""
_CANCEL_SECONDS: Final = 0.2


class ServedChatModel:
    """Thread-safe ``ChatModel`` behind an endpoint; all threads share one limit of concurrent requests.

    Attributes:
        name: Name of the model on the server, and the URL.
        family: Box frame, native box text, limits.
        overview_budget: Default budget of the full image: of the family, or of the server's processor if it is smaller.
        crop_budget: Default budget of one crop, with the same rule.
    """

    def __init__(self, settings: ServedSettings) -> None:
        """Determine the name of the model; the server is queried only if ``settings`` do not name it.

        Args:
            settings: Settings of the server.

        Raises:
            ModelError: If the key is invalid, or the server does not list its model.
        """
        self._settings = settings
        self._endpoint = Endpoint(settings)
        self._model = settings.model or parse_single_model(self._endpoint.request("/models"), settings.url)
        self.name = settings.model_copy(update={"model": self._model}).title
        self.family = settings.family_row
        self.overview_budget, self.crop_budget = self.family.overview_budget, self.family.crop_budget
        if settings.processor_budget is not None:
            self.overview_budget = default_budget(settings.processor_budget, self.overview_budget)
            self.crop_budget = default_budget(settings.processor_budget, self.crop_budget)
        self._limits: ServerLimits | None = None
        if self.family.box_frame is BoxFrame.MODEL_PIXELS and self.family.budget_kind == "area":
            self._limits = ServerLimits(
                self.family, settings.url, self._count_prompt_tokens, stated=settings.processor_budget
            )
        self._images = SentImageCache(self._encode)
        self._frame_lock = threading.Lock()
        self._seen_losses = 0
        self._is_closed = threading.Event()
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="served-model")

    @property
    def concurrency(self) -> int:
        """Maximum number of concurrent requests."""
        return self._settings.concurrency

    def image_size_warning(self) -> str:
        """Warning if boxes depend on an image size that could not be verified; otherwise empty."""
        return self._limits.warning() if self._limits else ""

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        """Answer every request ``group_size`` times (see ``ChatModel.generate``).

        Greedy completions of a request are equal, so one is requested. Sampling with a seed is only as reproducible as
        the server.

        Raises:
            InputError: If a setting or a conversation is invalid.
            ModelError: If a request gets no valid response after all attempts; the other requests are cancelled. A
                caller that needs to know which request failed sends them one by one.
        """
        if group_size < 1 or sampling.max_new_tokens < 1 or sampling.temperature < 0:
            raise InputError(
                "expected group_size >= 1, max_new_tokens >= 1 and temperature >= 0, got "
                f"{group_size}, {sampling.max_new_tokens} and {sampling.temperature:g}"
            )
        began = time.perf_counter()
        is_greedy = sampling.temperature == 0
        n = group_size if self._settings.supports_n and not is_greedy else 1
        calls = 1 if is_greedy else group_size // n
        groups = self._ask_all(requests, sampling, calls, n)
        seconds = (time.perf_counter() - began) / max(1, len(requests) * group_size)
        copies = group_size if is_greedy else 1
        return [[replace(one, seconds=seconds) for one in group] * copies for group in groups]

    def close(self) -> None:
        """Cancel all requests, then release threads and connections."""
        self._is_closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._endpoint.close()

    def _ask_all(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, calls: int, n: int
    ) -> list[list[Completion]]:
        """Send each request ``calls`` times for ``n`` completions; the first failure cancels the rest."""
        base_seed = None
        if sampling.temperature > 0:
            base_seed = secrets.randbits(62) if sampling.seed is None else sampling.seed
        is_cancelled = threading.Event()
        futures: list[Future[list[Completion]]] = []
        try:
            for index, request in enumerate(requests):
                for number in range(calls):
                    seed = None if base_seed is None else completion_seed(base_seed, index, number)
                    one = replace(sampling, seed=seed)
                    futures.append(self._pool.submit(self._ask, request, one, n, is_cancelled))
            left: set[Future[list[Completion]]] = set(futures)
            while left:
                done, left = wait(left, timeout=_CANCEL_SECONDS, return_when=FIRST_EXCEPTION)
                if self._is_closed.is_set():
                    raise ModelError(f"The requests to {self._settings.url} were cancelled. Send them again.")
                for future in done:
                    future.result()  # re-raises the error of a request before waiting for the others
            answers = [future.result() for future in futures]
        finally:
            is_cancelled.set()
            for future in futures:
                future.cancel()
        return [list(chain(*answers[start : start + calls])) for start in range(0, len(answers), calls)]

    def _ask(
        self, request: ChatRequest, sampling: SamplingParams, n: int, is_cancelled: threading.Event
    ) -> list[Completion]:
        """Send one request, in a thread of the pool; again if the server was lost and keeps other sizes since."""
        for _ in range(_MAX_FRAME_ATTEMPTS):
            losses = self._refresh_limits()
            sent = [self._images.get(image) for image in images_of(request)]
            body = build_body(build_messages(request, sent), self._model, sampling, n, self._settings)
            content = self._endpoint.request("/chat/completions", body, is_cancelled)
            if self._limits is None or not sent or losses == self._endpoint.lost_connections:
                break
            self._refresh_limits()
            if [self._images.get(image) for image in images_of(request)] == sent:
                break
        else:
            raise ModelError(
                f"{self._settings.url} was lost {_MAX_FRAME_ATTEMPTS} times during one request and read images at "
                "other sizes each time. Check that it runs with one configuration."
            )
        completions = parse_completions(content, n, self._settings.url, sent)
        if self._limits is not None:
            texts = ["".join(part for part in message.parts if isinstance(part, str)) for message in request.messages]
            tokens = sum(image.visual_tokens for image in sent)
            self._limits.check_reply(completions[0].prompt_tokens, tokens, len(sent), texts)
        return completions

    def _refresh_limits(self) -> int:
        """Drop measured limits and images if a connection was lost; return the number of losses so far."""
        if self._limits is None:
            return 0
        with self._frame_lock:
            losses = self._endpoint.lost_connections
            if losses != self._seen_losses:
                self._seen_losses = losses
                self._limits.forget()
                self._images.clear()
            return losses

    def _encode(self, image: ImageInput) -> SentImage:
        kept: KeptTokens | None = None
        if self._limits is not None:
            kept = self._limits.find(PixelBudget(image.min_pixels, image.max_pixels))
        return encode_image(image, self._settings, kept)

    def _count_prompt_tokens(self, size_wh: tuple[int, int]) -> int:
        """Ask for one token about a gray image; 0 if the server does not report usage."""
        gray = Image.new("RGB", size_wh, (128, 128, 128))
        request = ChatRequest((Message("user", (ImageInput(gray, 1, size_wh[0] * size_wh[1]), PROBE_TEXT)),))
        sent = SentImage(encode_pixels(gray, self._settings), size_wh, 0)
        sampling = SamplingParams(temperature=0.0, max_new_tokens=1)
        body = build_body(build_messages(request, [sent]), self._model, sampling, 1, self._settings)
        reply = _parse_reply(self._endpoint.request("/chat/completions", body, self._is_closed), self._settings.url)
        return reply.usage.prompt_tokens if reply.usage else 0


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
    messages: list[dict[str, Any]], model: str, sampling: SamplingParams, n: int, settings: ServedSettings
) -> dict[str, Any]:
    """Build the body of one request.

    Args:
        messages: From ``build_messages``.
        model: Name of the model on the server.
        sampling: Decoding settings of this request, with its own seed.
        n: Number of completions.
        settings: Settings of the server.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": sampling.temperature,
        "top_p": 1.0,  # otherwise servers use the value of the checkpoint
        settings.max_tokens_field: sampling.max_new_tokens,
        "stream": False,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
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


def parse_completions(content: bytes, n: int, url: str, sent: Sequence[SentImage] = ()) -> list[Completion]:
    """Parse the response to a request for ``n`` completions; counts that the server does not report are 0.

    Args:
        content: Response body, JSON.
        n: Number of requested completions. Each gets an equal share of the completion tokens, which are only counted
            together.
        url: URL of the server, for messages.
        sent: Images of the request.

    Raises:
        ModelError: If it is invalid, has another number of completions, or a text ended for another reason than stop
            or length. A completion without a text (``content: null``, no choices, a refusal, tool calls only) is no
            error: its ``missing_text`` states the reason.
    """
    reply = _parse_reply(content, url)
    usage = reply.usage or _Usage()
    share, rest = divmod(usage.completion_tokens, n)

    def complete(number: int, text: str, finish_reason: str, missing_text: str) -> Completion:
        return Completion(
            text=text,
            finish_reason="length" if finish_reason == "length" else "stop",
            prompt_tokens=usage.prompt_tokens,
            visual_tokens=sum(image.visual_tokens for image in sent),
            completion_tokens=share + (number < rest),
            image_sizes_wh=tuple(image.size_wh for image in sent),
            seconds=0.0,  # known when all requests of the call are answered
            missing_text=missing_text,
        )

    if not reply.choices:
        return [complete(number, "", "stop", "The server returned no choices.") for number in range(n)]
    if len(reply.choices) != n:
        raise ModelError(
            f"expected {n} completions of one request from {url}, got {len(reply.choices)}. "
            "Set supports_n (--served-supports-n) only for a server that returns several completions."
        )
    completions = []
    for number, choice in enumerate(sorted(reply.choices, key=lambda choice: choice.index)):
        reason, text = choice.finish_reason or "", choice.message.content
        if text is None:
            completions.append(complete(number, "", reason, _describe_missing_text(choice)))
            continue
        if reason not in ("stop", "length"):
            raise ModelError(
                f"{url} ended a completion with {reason[:40]!r} instead of stop or length. "
                "Disable tools and filters of the server."
            )
        completions.append(complete(number, text, reason, ""))
    return completions


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


def _parse_reply(content: bytes, url: str) -> _CompletionBody:
    try:
        return _CompletionBody.model_validate_json(content)
    except ValidationError as error:
        raise ModelError(
            f"The response from {url} is not a chat completion ({_first_error(error)}). "
            "Check that the URL is the base URL of an OpenAI-compatible API."
        ) from None  # the message is complete, and the response may be large


def _describe_missing_text(choice: _Choice) -> str:
    """Why a completion has no text, for the records."""
    if choice.message.refusal:
        return f"The server returned a refusal instead of a text: {' '.join(choice.message.refusal.split())[:200]}"
    if choice.message.tool_calls:
        return "The server returned tool calls instead of a text. Disable tools of the server."
    if choice.finish_reason == "length":
        return "The server returned no text within the token limit, for example only reasoning. Raise the limit."
    return f"The server returned no text (content: null, finish_reason {(choice.finish_reason or 'null')[:40]!r})."


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"[:200]


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(BaseModel):
    index: int = 0
    message: _Message
    finish_reason: str | None = None


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

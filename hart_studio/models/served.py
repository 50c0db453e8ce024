"""Chat model served by another process: vLLM, SGLang, ``transformers serve``, or any OpenAI-compatible endpoint.

Each completion is a separate request; requests run concurrently. Images are sent at the size at which an in-process
model would see them (``served_images``), so boxes land in the same frame. What the server's chat template, tokenizer
and processor do is up to the server; text removed by its reasoning parser is not visible here.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from hart_studio.errors import InputError, ModelError
from hart_studio.geometry import BoxFrame
from hart_studio.models.chat import ChatRequest, Completion, SamplingParams
from hart_studio.models.completions_api import (
    ParsedCompletion,
    build_body,
    build_messages,
    completion_seed,
    parse_completion,
    parse_single_model,
)
from hart_studio.models.endpoint import Endpoint
from hart_studio.models.inputs import default_budget, images_of
from hart_studio.models.served_images import SentImage, SentImageCache
from hart_studio.models.served_settings import ServedSettings

CHAT_PATH = "/chat/completions"
MODELS_PATH = "/models"


@dataclass(frozen=True)
class _ServedResult:
    """A response, and the images of its request."""

    reply: ParsedCompletion
    sent: tuple[SentImage, ...]


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
        self._model = settings.model or parse_single_model(self._endpoint.get(MODELS_PATH), settings.url)
        self.name = settings.model_copy(update={"model": self._model}).title
        self.family = settings.family_row
        self.overview_budget, self.crop_budget = self.family.overview_budget, self.family.crop_budget
        if settings.processor_budget is not None:
            self.overview_budget = default_budget(settings.processor_budget, self.overview_budget)
            self.crop_budget = default_budget(settings.processor_budget, self.crop_budget)
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="served-model")

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
        return [
            [completion for answered in group for completion in _completions(answered, seconds)] * copies
            for group in groups
        ]

    def close(self) -> None:
        """Release threads and connections."""
        self._pool.shutdown(cancel_futures=True)
        self._endpoint.close()

    def _ask_all(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, calls: int, n: int
    ) -> list[list[_ServedResult]]:
        """Send each request ``calls`` times for ``n`` completions; the first failure cancels the rest."""
        images = SentImageCache(
            [image for request in requests for image in images_of(request) for _ in range(calls)],
            self.family,
            self._settings.processor_budget,
            self._settings.image_format,
        )
        seed = secrets.randbits(62) if sampling.seed is None else sampling.seed
        is_cancelled = threading.Event()
        futures: list[list[Future[_ServedResult]]] = []
        try:
            for index, request in enumerate(requests):
                seeds = [
                    None if sampling.temperature == 0 else completion_seed(seed, index, number)
                    for number in range(calls)
                ]
                futures.append(
                    [self._pool.submit(self._ask, request, sampling, images, one, n, is_cancelled) for one in seeds]
                )
            every = [future for group in futures for future in group]
            for future in wait(every, return_when=FIRST_EXCEPTION).done:
                future.result()  # re-raises the error of a request before waiting for the others
            return [[future.result() for future in group] for group in futures]
        finally:
            is_cancelled.set()
            for group in futures:
                for future in group:
                    future.cancel()

    def _ask(
        self,
        request: ChatRequest,
        sampling: SamplingParams,
        images: SentImageCache,
        seed: int | None,
        n: int,
        is_cancelled: threading.Event,
    ) -> _ServedResult:
        """Send one request, in a thread of the pool."""
        sent = tuple(images.get(image) for image in images_of(request))
        body = build_body(build_messages(request, sent), self._model, sampling, self._settings, seed, n)
        reply = parse_completion(self._endpoint.post(CHAT_PATH, body, is_cancelled), n, self._endpoint.url)
        self._check_frame(reply, sent)
        return _ServedResult(reply, sent)

    def _check_frame(self, reply: ParsedCompletion, sent: tuple[SentImage, ...]) -> None:
        """Check that the server has not shrunk the images, if boxes are in pixels of the model input.

        Raises:
            ModelError: If the prompt has fewer tokens than its images.
        """
        visual_tokens = sum(image.visual_tokens for image in sent)
        if self.family.box_frame is BoxFrame.MODEL_PIXELS and 0 < reply.prompt_tokens < visual_tokens:
            raise ModelError(
                f"expected {visual_tokens} image tokens in a prompt of {self.name}, but the whole prompt has "
                f"{reply.prompt_tokens}: its processor shrinks them, and boxes would be wrong. Raise max_pixels of the "
                "server, or set processor_min_pixels and processor_max_pixels (--served-pixels) to its values."
            )


def _completions(answered: _ServedResult, seconds: float) -> list[Completion]:
    return [
        Completion(
            text=choice.text,
            finish_reason=choice.finish_reason,
            prompt_tokens=answered.reply.prompt_tokens,
            visual_tokens=sum(image.visual_tokens for image in answered.sent),
            completion_tokens=choice.completion_tokens,
            image_sizes_wh=tuple(image.size_wh for image in answered.sent),
            seconds=seconds,
        )
        for choice in answered.reply.choices
    ]

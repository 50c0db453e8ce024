"""A chat model that another process serves: vLLM, SGLang, ``transformers serve``, or any endpoint like OpenAI's.

Every completion is a request of its own, many at a time. Pictures travel at the size at which an in-process model would
see them (``served_pictures``), so boxes land in the same frame. What the server's chat template, tokenizer and
processor do with a request is up to the server; a text cut off by its own reasoning parser is not seen here.
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
from hart_studio.models.chat import ChatRequest, Completion, Sampling
from hart_studio.models.completions_api import (
    Reply,
    build_body,
    build_messages,
    completion_seed,
    read_only_model,
    read_reply,
)
from hart_studio.models.endpoint import Endpoint
from hart_studio.models.inputs import default_budget, pictures_of
from hart_studio.models.served_pictures import SentPicture, SentPictures
from hart_studio.models.served_settings import ServedSettings

CHAT_PATH = "/chat/completions"
MODELS_PATH = "/models"


@dataclass(frozen=True)
class _Answered:
    """A reply, and the pictures that its request showed."""

    reply: Reply
    sent: tuple[SentPicture, ...]


class ServedChatModel:
    """A ``ChatModel`` behind an endpoint. Threads may share it; together they keep to one bound of requests at a time.

    Attributes:
        name: The model's name at the server, and the URL.
        family: Box frame, native box text, traps.
        overview_budget: Default budget of the full image: the family's, or the server's processor's when it is smaller.
        crop_budget: Default budget of one crop, likewise.
    """

    def __init__(self, settings: ServedSettings) -> None:
        """Find out what the model is called. A server is first asked here only when ``settings`` do not name the model.

        Args:
            settings: Where and how to ask.

        Raises:
            ModelError: If the key cannot be used, or the server does not say what it serves.
        """
        self._settings = settings
        self._endpoint = Endpoint(settings)
        self._model = settings.model or read_only_model(self._endpoint.get(MODELS_PATH), settings.url)
        self.name = settings.model_copy(update={"model": self._model}).title
        self.family = settings.family_row
        self.overview_budget, self.crop_budget = self.family.overview_budget, self.family.crop_budget
        if settings.processor_budget is not None:
            self.overview_budget = default_budget(settings.processor_budget, self.overview_budget)
            self.crop_budget = default_budget(settings.processor_budget, self.crop_budget)
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="served-model")

    def generate(
        self, requests: Sequence[ChatRequest], sampling: Sampling, group_size: int = 1
    ) -> list[list[Completion]]:
        """Answer every request ``group_size`` times (see ``ChatModel.generate``).

        Greedy completions of a request are equal, so one is asked for. A server repeats a seed's samples only as far as
        it can itself.

        Raises:
            InputError: If a setting or a conversation is not usable.
            ModelError: If a request gets no usable answer after all attempts; the others are then not waited for. A
                caller that wants to know which one it was asks again one by one.
        """
        if group_size < 1 or sampling.max_new_tokens < 1 or sampling.temperature < 0:
            raise InputError(
                "expected group_size >= 1, max_new_tokens >= 1 and temperature >= 0, got "
                f"{group_size}, {sampling.max_new_tokens} and {sampling.temperature:g}"
            )
        began = time.perf_counter()
        is_greedy = sampling.temperature == 0
        n = group_size if self._settings.has_n and not is_greedy else 1
        calls = 1 if is_greedy else group_size // n
        groups = self._ask_all(requests, sampling, calls, n)
        seconds = (time.perf_counter() - began) / max(1, len(requests) * group_size)
        copies = group_size if is_greedy else 1
        return [
            [completion for answered in group for completion in _completions(answered, seconds)] * copies
            for group in groups
        ]

    def close(self) -> None:
        """Give back threads and connections."""
        self._pool.shutdown(cancel_futures=True)
        self._endpoint.close()

    def _ask_all(
        self, requests: Sequence[ChatRequest], sampling: Sampling, calls: int, n: int
    ) -> list[list[_Answered]]:
        """Send each request ``calls`` times for ``n`` completions; the first failure ends it."""
        pictures = SentPictures(
            [picture for request in requests for picture in pictures_of(request) for _ in range(calls)],
            self.family,
            self._settings.processor_budget,
            self._settings.picture_format,
        )
        seed = secrets.randbits(62) if sampling.seed is None else sampling.seed
        is_over = threading.Event()
        futures: list[list[Future[_Answered]]] = []
        try:
            for index, request in enumerate(requests):
                seeds = [
                    None if sampling.temperature == 0 else completion_seed(seed, index, number)
                    for number in range(calls)
                ]
                futures.append(
                    [self._pool.submit(self._ask, request, sampling, pictures, one, n, is_over) for one in seeds]
                )
            every = [future for group in futures for future in group]
            for future in wait(every, return_when=FIRST_EXCEPTION).done:
                future.result()  # raises what a request raised, before the others are waited for
            return [[future.result() for future in group] for group in futures]
        finally:
            is_over.set()
            for group in futures:
                for future in group:
                    future.cancel()

    def _ask(
        self,
        request: ChatRequest,
        sampling: Sampling,
        pictures: SentPictures,
        seed: int | None,
        n: int,
        is_over: threading.Event,
    ) -> _Answered:
        """One request, in a thread of the pool."""
        sent = tuple(pictures.take(picture) for picture in pictures_of(request))
        body = build_body(build_messages(request, sent), self._model, sampling, self._settings, seed, n)
        reply = read_reply(self._endpoint.post(CHAT_PATH, body, is_over), n, self._endpoint.url)
        self._check_frame(reply, sent)
        return _Answered(reply, sent)

    def _check_frame(self, reply: Reply, sent: tuple[SentPicture, ...]) -> None:
        """See that the server has not shrunk the pictures, where boxes are pixels of what the model sees.

        Raises:
            ModelError: If the prompt has fewer tokens than its pictures need.
        """
        visual_tokens = sum(picture.visual_tokens for picture in sent)
        if self.family.box_frame is BoxFrame.MODEL_PIXELS and 0 < reply.prompt_tokens < visual_tokens:
            raise ModelError(
                f"expected {self.name} to see {visual_tokens} tokens of pictures, its whole prompt has "
                f"{reply.prompt_tokens}: its processor shrinks them, and boxes would be wrong; raise max_pixels of the "
                "server, or set processor_min_pixels and processor_max_pixels to what it has"
            )


def _completions(answered: _Answered, seconds: float) -> list[Completion]:
    return [
        Completion(
            text=choice.text,
            finish_reason=choice.finish_reason,
            prompt_tokens=answered.reply.prompt_tokens,
            visual_tokens=sum(picture.visual_tokens for picture in answered.sent),
            completion_tokens=choice.completion_tokens,
            image_sizes_wh=tuple(picture.size_wh for picture in answered.sent),
            seconds=seconds,
        )
        for choice in answered.reply.choices
    ]

"""In-process chat model: batches of conversations, one prefill per prompt, own sampler.

It does not use ``generate()``, for three reasons. The checkpoint's ``generation_config`` (top_k,
repetition_penalty) cannot override the sampling settings of a run. Random numbers come from a generator of this
call, one row of them per completion, so the samples depend on the seed and not on how requests were batched. And
positions are always passed explicitly, so nothing depends on ``rope_deltas`` of an earlier call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, ProcessorMixin

from hart_studio.errors import InputError, ModelError
from hart_studio.models.chat import ChatRequest, Completion, SamplingParams
from hart_studio.models.families import Family
from hart_studio.models.features import CachedImageEncoder, EncodedImage, concatenate_images, rope_position_ids
from hart_studio.models.inputs import default_budget, images_of, processor_default_budget, tokenize

BATCH_TOKENS = 32_768
"""Tokens in the key-value cache of one batch, 2 GB for Qwen2.5-VL-7B in bfloat16. Project default."""

WINDOW = 32
"""Number of requests that are prepared, sorted by length and batched together; bounds the images in memory."""


@dataclass(frozen=True)
class EncodedPrompt:
    """A request ready for the language model.

    Attributes:
        ids: Token ids of the whole prompt, including image placeholders.
        images: The encoded images in the order of their placeholders.
        seconds: Preparation time.
    """

    ids: list[int]
    images: list[EncodedImage]
    seconds: float


class LocalChatModel:
    """A ``ChatModel`` that runs in this process. Calls from several threads run one after another.

    Attributes:
        name: Name as given by the user.
        family: Box frame, native box text, limits.
        overview_budget: Default budget of the full image for this checkpoint.
        crop_budget: Default budget of one crop for this checkpoint.
        context_tokens: Tokens of the longest prompt with its answer; None if the config does not state it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        family: Family,
        name: str,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        """Wrap a loaded model that is on its device.

        Args:
            model: The model, in eval mode whenever ``generate`` is called.
            processor: Its processor, with a chat template.
            family: Its family.
            name: Name, for messages.
            batch_tokens: Maximum number of cached tokens of one batch: rows times prompt and completion length.
        """
        self.model: Any = model
        self.processor = processor
        self.name = name
        self.family = family
        own = processor_default_budget(processor, family)
        self.overview_budget = default_budget(own, family.overview_budget)
        self.crop_budget = default_budget(own, family.crop_budget)
        length = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.context_tokens: int | None = length if isinstance(length, int) and length > 0 else None
        self.encoder = CachedImageEncoder(model, processor, family)
        self._batch_tokens = batch_tokens
        self._lock = threading.Lock()
        self._fresh_seeds = torch.Generator()
        self._fresh_seeds.seed()
        self._stop_ids = torch.tensor(_stop_ids(self.model, processor), device=model.device)
        self._unsampled_ids = torch.tensor(_suppressed_token_ids(self.model, processor), device=model.device)
        tags = set(processor.tokenizer.convert_tokens_to_ids(list(family.box_tags)))
        added = processor.tokenizer.added_tokens_decoder
        self._removed_ids = {token_id for token_id, token in added.items() if token.special} - tags

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text alone, without images and chat template."""
        return len(self.processor.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def clear_features(self) -> None:
        """Clear the cache of encoded images: call it when the weights have changed."""
        with self._lock:
            self.encoder.clear()

    @torch.no_grad()
    def prepare(self, request: ChatRequest) -> EncodedPrompt:
        """Encode a request: prompt tokens and image features.

        Raises:
            InputError: If the conversation is invalid.
            ModelError: If memory runs out, or the chat template fails.
        """
        with self._lock, memory_errors(self.model.device, release=self.encoder.clear):
            return self._prepare(request)

    @torch.no_grad()
    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        """Answer every request ``group_size`` times (see ``ChatModel.generate``).

        A prompt is prefilled once, whatever ``group_size``; its cache is copied for the completions.

        Raises:
            InputError: If a setting or a conversation is invalid.
            ModelError: If memory runs out, or the logits are NaN.
        """
        if group_size < 1 or sampling.max_new_tokens < 1 or sampling.temperature < 0:
            raise InputError(
                "expected group_size >= 1, max_new_tokens >= 1 and temperature >= 0, got "
                f"{group_size}, {sampling.max_new_tokens} and {sampling.temperature:g}"
            )
        if self.model.training:
            raise InputError("The model is in training mode. Call model.eval() first.")
        completions: list[list[Completion]] = [[] for _ in requests]
        with self._lock, memory_errors(self.model.device, release=self.encoder.clear):
            noise = self._noise(len(requests), group_size, sampling)
            for start in range(0, len(requests), WINDOW):
                window = requests[start : start + WINDOW]
                self.encoder.trim(image for request in window for image in images_of(request))
                prompts = [self._prepare(request) for request in window]
                for batch in self._batches(prompts, sampling, group_size):
                    rows = None if noise is None else noise[[start + index for index in batch]].flatten(0, 1)
                    answers = self._answer([prompts[index] for index in batch], sampling, group_size, rows)
                    for index, group in zip(batch, answers, strict=True):
                        completions[start + index] = group
        return completions

    def _noise(self, request_count: int, group_size: int, sampling: SamplingParams) -> torch.Tensor | None:
        """Uniform numbers ``[requests, group_size, max_new_tokens]``, one per sampled token; None for greedy."""
        if sampling.temperature == 0:
            return None
        seed = sampling.seed
        if seed is None:
            seed = int(torch.randint(2**62, (), generator=self._fresh_seeds))
        generator = torch.Generator().manual_seed(seed)
        shape = (request_count, group_size, sampling.max_new_tokens)
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    def _prepare(self, request: ChatRequest) -> EncodedPrompt:
        began = time.perf_counter()
        images = images_of(request)
        encoded = [self.encoder.encode(image, is_alone=len(images) == 1) for image in images]
        ids = tokenize(self.processor, request, [one.placeholder_ids for one in encoded])
        return EncodedPrompt(ids, encoded, time.perf_counter() - began)

    def _batches(
        self, prompts: Sequence[EncodedPrompt], sampling: SamplingParams, group_size: int
    ) -> Iterator[list[int]]:
        """Group prompt indices into batches of similar length, to reduce padding."""
        batch: list[int] = []
        for index in sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids)):
            row_tokens = len(prompts[index].ids) + sampling.max_new_tokens
            if batch and (len(batch) + 1) * group_size * row_tokens > self._batch_tokens:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _answer(
        self, prompts: Sequence[EncodedPrompt], sampling: SamplingParams, group_size: int, noise: torch.Tensor | None
    ) -> list[list[Completion]]:
        began = time.perf_counter()
        rows = self._decode(prompts, sampling, group_size, noise)
        elapsed = time.perf_counter() - began + sum(prompt.seconds for prompt in prompts)
        stop_ids = set(self._stop_ids.tolist())
        return [
            [
                Completion(
                    text=self.processor.tokenizer.decode([token for token in row if token not in self._removed_ids]),
                    finish_reason="stop" if row[-1] in stop_ids else "length",
                    prompt_tokens=len(prompt.ids),
                    visual_tokens=sum(image.visual_tokens for image in prompt.images),
                    completion_tokens=len(row),
                    image_sizes_wh=tuple(image.size_wh for image in prompt.images),
                    seconds=elapsed / len(rows),
                    token_ids=tuple(row),
                    token_logps=tuple(logps),
                )
                for row, logps in rows[index * group_size : (index + 1) * group_size]
            ]
            for index, prompt in enumerate(prompts)
        ]

    def _decode(
        self, prompts: Sequence[EncodedPrompt], sampling: SamplingParams, group_size: int, noise: torch.Tensor | None
    ) -> list[tuple[list[int], list[float]]]:
        """Sample a batch.

        Prompts are left-padded and prefilled without their last token. The cache is then repeated ``group_size`` times
        and decoding starts from the last token in every row.

        Returns:
            Token ids and their log-probabilities of ``len(prompts) * group_size`` completions, group by group, each
            including its stop token.
        """
        device = self.model.device
        ids, mask = _pad_left([prompt.ids for prompt in prompts], device)
        images = [image for prompt in prompts for image in prompt.images]
        positions = rope_position_ids(self.model, self.family, ids, mask, [image.grid_thw for image in images])
        cache = DynamicCache(config=self.model.config.get_text_config())
        seen = {"mm_encoder_outputs": {"image": concatenate_images(self.family, images)}} if images else {}
        self.model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[..., :-1],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **seen,
        )
        cache.batch_repeat_interleave(group_size)
        token = ids[:, -1].repeat_interleave(group_size)
        mask = mask.repeat_interleave(group_size, 0)
        position = positions[..., -1:].repeat_interleave(group_size, -2)
        noise = None if noise is None else noise.to(device)
        sampled: list[torch.Tensor] = []
        logps: list[torch.Tensor] = []
        scale = sampling.temperature or 1.0
        is_done = torch.zeros_like(token, dtype=torch.bool)
        while len(sampled) < sampling.max_new_tokens and not bool(is_done.all()):
            output = self.model(
                input_ids=token[:, None],
                attention_mask=mask,
                position_ids=position + len(sampled),
                past_key_values=cache,
                use_cache=True,
            )
            logits = output.logits[:, -1].float()
            if not sampled and bool(logits.isnan().any()):
                raise ModelError(
                    f"The logits of {self.name} are NaN: its weights are damaged or overflow in "
                    f"{self.model.dtype}. Load it with dtype='float32'."
                )
            norm = (logits / scale).logsumexp(-1)  # of all tokens, as a training pass scores them
            logits[:, self._unsampled_ids] = -torch.inf
            token = sample_token(logits, sampling.temperature, None if noise is None else noise[:, len(sampled)])
            is_done |= torch.isin(token, self._stop_ids)
            sampled.append(token)
            logps.append(logits.gather(-1, token[:, None]).squeeze(-1) / scale - norm)
            mask = torch.cat([mask, torch.ones_like(token)[:, None]], 1)
        stop_ids = set(self._stop_ids.tolist())
        rows = [_truncate_at_stop(row, stop_ids) for row in torch.stack(sampled, 1).tolist()]
        return [(row, values[: len(row)]) for row, values in zip(rows, torch.stack(logps, 1).tolist(), strict=True)]


def sample_token(logits: torch.Tensor, temperature: float, uniform: torch.Tensor | None) -> torch.Tensor:
    """Sample one token per row: the most likely one, or inverse transform sampling with ``uniform``.

    Args:
        logits: ``[rows, vocabulary]`` float32; -inf is never sampled.
        temperature: Divides the logits.
        uniform: ``[rows]`` float64 in [0, 1); None for greedy.

    Returns:
        ``[rows]`` token ids.
    """
    if uniform is None:
        return logits.argmax(-1)
    cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
    # right=True skips tokens of zero probability, which do not raise the cumulative sum.
    return torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True).squeeze(-1)


def _pad_left(rows: Sequence[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask ``[rows, longest]``; padding is masked."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _truncate_at_stop(row: list[int], stop_ids: set[int]) -> list[int]:
    """Tokens up to and including the first stop token."""
    return next((row[: index + 1] for index, token in enumerate(row) if token in stop_ids), row)


def _stop_ids(model: Any, processor: ProcessorMixin) -> list[int]:
    """Ids of stop tokens: of the checkpoint and of the tokenizer."""
    listed = model.generation_config.eos_token_id
    ids = {processor.tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])}
    return sorted(token_id for token_id in ids if token_id is not None)


def _suppressed_token_ids(model: Any, processor: ProcessorMixin) -> list[int]:
    """Ids of image and video placeholders: in an answer they have no features and break the next turn."""
    frames = (getattr(model.config, name, None) for name in ("vision_start_token_id", "vision_end_token_id"))
    ids = {*processor.image_token_ids, *processor.video_token_ids, *frames}
    return sorted(token_id for token_id in ids if token_id is not None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory; on the CPU torch raises a plain ``RuntimeError``."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def memory_errors(device: torch.device, release: Callable[[], None] | None = None) -> Iterator[None]:
    """Turn an out-of-memory failure inside the block into a ``ModelError``; other errors pass.

    Args:
        device: Where the block runs, for the message.
        release: Called on out of memory, to free caches.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if release is not None:
            release()
        raise ModelError(
            f"Out of memory on {device}. Lower the overview or crop "
            "budget (max pixels), the rollouts per question, the batch or the max new tokens, or load a smaller model."
        ) from error

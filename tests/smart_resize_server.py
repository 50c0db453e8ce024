"""Fake server of an absolute-pixel family: resizes as its processor, counts tokens, points at a marked rectangle."""

from __future__ import annotations

import json
import re

import numpy as np
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from hart_studio.models.served_limits import PROBE_TEXT
from tests.fake_endpoint import Answer, Seen
from tests.unit.models.served import opened

FACTOR = 28
MARK_RGB = (255, 0, 0)
TEMPLATE_TOKENS = 25


class SmartResizeScript:
    """Script of ``FakeEndpoint`` with the pixel limits of a processor, which tests may change."""

    def __init__(self, min_pixels: int = 3136, max_pixels: int = 12845056, *, reports_usage: bool = True) -> None:
        self.min_pixels, self.max_pixels, self.reports_usage = min_pixels, max_pixels, reports_usage
        self.changed = 0
        """Images of questions whose size was not kept; those of measurements do not count."""

    def __call__(self, seen: Seen) -> Answer:
        tokens, text, words, changed = TEMPLATE_TOKENS, "(A)", "", 0
        for message in seen.body["messages"]:
            parts = message["content"]
            for part in [{"type": "text", "text": parts}] if isinstance(parts, str) else parts:
                if part["type"] == "text":
                    words += part["text"]
                    continue
                image = opened(part["image_url"]["url"]).convert("RGB")
                height, width = smart_resize(image.height, image.width, FACTOR, self.min_pixels, self.max_pixels)
                changed += (width, height) != image.size
                tokens += width * height // FACTOR**2 + 2
                red = np.array(image).astype(int)
                rows, columns = np.nonzero((red[..., 0] > 200) & (red[..., 1] < 90))
                if len(rows):
                    x, y = width / image.width, height / image.height
                    box = [columns.min() * x, rows.min() * y, (columns.max() + 1) * x, (rows.max() + 1) * y]
                    text = json.dumps([{"bbox_2d": [round(edge, 2) for edge in box], "label": "mark"}])
        self.changed += changed if words != PROBE_TEXT else 0
        tokens += len(re.findall(r"\w+|[^\w\s]", words))
        usage = {"prompt_tokens": tokens, "completion_tokens": 3} if self.reports_usage else None
        return Answer((text,), usage=usage)

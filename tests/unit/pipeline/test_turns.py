from __future__ import annotations

import pytest
from PIL import Image

from hart_studio.models.chat import ChatRequest, Completion, ImageInput, Message
from hart_studio.pipeline.turns import compose_message, record_turn
from hart_studio.prompts import IMAGE


def make_image() -> ImageInput:
    return ImageInput(Image.new("RGB", (64, 64)), 1, 4096)


def test_images_stand_where_the_prompt_has_them() -> None:
    first, second = make_image(), make_image()
    message = compose_message(("see ", IMAGE, IMAGE, " and answer"), [first, second])
    assert message == Message("user", ("see ", first, second, " and answer"))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_slots_and_images_must_match(count: int) -> None:
    with pytest.raises(ValueError, match=f"got {count} images for 2 slots"):
        compose_message((IMAGE, "or", IMAGE), [make_image()] * count)


def test_a_turn_shows_the_last_message_and_counts_the_whole_conversation() -> None:
    overview, crop = make_image(), make_image()
    request = ChatRequest(
        (
            Message("user", (overview, "where?")),
            Message("assistant", ("here",)),
            Message("user", ("now ", crop, " answer")),
        )
    )
    completion = Completion("B", "length", 90, 40, 1, ((64, 64), (32, 32)), 0.5)
    turn = record_turn("answer", request, completion)
    assert turn.prompt == "now <image> answer"
    assert turn.image_sizes_wh == ((64, 64), (32, 32))
    assert (turn.kind, turn.text, turn.finish_reason) == ("answer", "B", "length")
    assert (turn.prompt_tokens, turn.visual_tokens, turn.completion_tokens, turn.seconds) == (90, 40, 1, 0.5)

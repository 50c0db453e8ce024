from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from hart_studio.experiments.pretraining.tiny_model import (
    build_model,
    build_processor,
    build_tokenizer,
    number_token_ids,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_numbers_from_0_to_1000_are_single_tokens(tokenizer) -> None:
    ids = number_token_ids(tokenizer)
    assert len(set(ids)) == 1001
    for text in ("[1, 20, 305, 1000]", '"bbox_2d": [999, 100, 909, 10]'):
        numbers = [token for token in tokenizer(text)["input_ids"] if token in ids]
        assert tokenizer.decode(numbers) == "".join(c for c in text if c.isdigit())[-len(tokenizer.decode(numbers)) :]
    assert all(tokenizer(str(number))["input_ids"] == [ids[number]] for number in range(1001))


@pytest.mark.parametrize(
    "text", ["Ünïcode 4096 x 3072!", "two  spaces\n\n\ttabs", "日本語 🔎", "", "<script>${1}</script>", "0007 01 12345"]
)
def test_any_text_survives(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_saved_model_loads_with_the_auto_classes(tokenizer, tmp_path: Path) -> None:
    model = build_model(tokenizer, seed=0)
    model.save_pretrained(tmp_path)
    build_processor(tokenizer).save_pretrained(tmp_path)
    loaded, processor = (
        AutoModelForImageTextToText.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path),
    )
    image = Image.new("RGB", (4096, 3072))
    message = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Where?"}]}]
    inputs = processor.apply_chat_template(
        message, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )
    assert inputs["image_grid_thw"].tolist() == [[1, 12, 16]]
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model.eval()(**inputs).logits)


def test_the_seed_decides_the_weights(tokenizer) -> None:
    first, again, other = (build_model(tokenizer, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_neighboring_numbers_start_with_similar_embeddings(tokenizer) -> None:
    table = build_model(tokenizer, 0).get_input_embeddings().weight[number_token_ids(tokenizer)]
    cosine = torch.nn.functional.cosine_similarity(table[500][None], table)
    assert cosine.argmax() == 500
    assert cosine[501] > cosine[520] > cosine[700]

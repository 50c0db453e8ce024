import math
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
    set_patch_prior,
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


@pytest.fixture(scope="module")
def model():
    return build_model(build_tokenizer(), 0)


def test_whitened_patches_are_uncorrelated_and_centered(model) -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(1536, 1536, generator=generator) / 40
    patches = torch.randn(4000, 1536, generator=generator) @ mixing + 0.3
    set_patch_prior(model, patches)
    layer = model.model.visual.patch_embed.proj
    seen = patches @ layer.weight.flatten(1).T + layer.bias
    torch.testing.assert_close(seen.mean(0), torch.zeros(128), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen.T @ seen / 4000, 0.25 * torch.eye(128), atol=0.01, rtol=0)


def test_linear_layers_are_scaled_to_their_inputs(model) -> None:
    vision, language = model.model.visual.blocks[0], model.model.language_model
    for layer, expected in (
        (vision.attn.qkv, 1 / math.sqrt(128)),
        (vision.attn.proj, 0.5 / math.sqrt(128)),
        (language.layers[0].mlp.up_proj, 1 / math.sqrt(192)),
        (language.embed_tokens, 1 / math.sqrt(192)),
    ):
        assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.05)


def test_a_place_and_its_number_share_a_code(model) -> None:
    """Column 5 of the vision table and the number at its center differ by a constant factor only."""
    table = model.model.visual.pos_embed.weight.data.view(16, 16, -1)
    numbers = model.get_input_embeddings().weight.data[number_token_ids(build_tokenizer())]
    column = table[0, 5, 64:]
    center = numbers[round((5 + 0.5) / 16 * 1000)][:64]
    assert float(torch.nn.functional.cosine_similarity(column, center, dim=0)) > 0.999

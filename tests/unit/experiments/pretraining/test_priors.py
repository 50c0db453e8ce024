import math

import pytest
import torch

from hart_studio.experiments.pretraining.priors import set_patch_prior
from hart_studio.experiments.pretraining.tiny_model import build_model, build_tokenizer, number_token_ids

pytestmark = pytest.mark.integration


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

"""The supervised attention is that of the layer, and training changes it."""

import numpy as np
import pytest
import torch

from hart_studio.experiments.pretraining.curriculum import LEVELS
from hart_studio.experiments.pretraining.objective import SUPERVISED_LAYER, AttentionSupervision, tree_mask
from hart_studio.experiments.pretraining.packing import Branch, PackedRow, Packer, VisualTokenTarget
from hart_studio.experiments.pretraining.tasks import overview_row
from hart_studio.experiments.pretraining.tiny_model import build_model, build_processor, build_tokenizer

pytestmark = pytest.mark.integration

_POINTING = max(LEVELS, key=lambda level: level.points)


@pytest.fixture(scope="module")
def packer() -> Packer:
    tokenizer = build_tokenizer()
    return Packer(tokenizer, build_processor(tokenizer).image_processor)


def run(model, batch, **options):
    mask = tree_mask(torch.from_numpy(batch.branch))
    with AttentionSupervision(model) as supervision:
        output = model.model(
            input_ids=torch.from_numpy(batch.input_ids),
            position_ids=torch.from_numpy(batch.positions),
            attention_mask=mask,
            pixel_values=torch.from_numpy(batch.pixel_values),
            image_grid_thw=torch.from_numpy(batch.grids),
            use_cache=False,
            **options,
        )
    return supervision.loss(batch, mask), output


def test_the_loss_is_the_attention_that_the_layer_pays(packer: Packer) -> None:
    model = build_model(build_tokenizer(), 0).eval()
    rng = np.random.default_rng(0)
    (batch,) = packer.pack([overview_row(rng, _POINTING) for _ in range(2)], token_budget=10**9)
    assert len(batch.attention_rows) > 10
    paid = {}
    attention = model.model.language_model.layers[SUPERVISED_LAYER].self_attn

    def listen(_, __, output):
        paid["weights"] = output[1]

    handle = attention.register_forward_hook(listen)
    model.model.language_model.config._attn_implementation = "eager"  # the only one that gives its weights
    mask = torch.where(tree_mask(torch.from_numpy(batch.branch)), 0.0, torch.finfo(torch.float32).min)
    with torch.no_grad():
        model.model(
            input_ids=torch.from_numpy(batch.input_ids),
            position_ids=torch.from_numpy(batch.positions),
            attention_mask=mask,
            pixel_values=torch.from_numpy(batch.pixel_values),
            image_grid_thw=torch.from_numpy(batch.grids),
            use_cache=False,
        )
    handle.remove()
    model.model.language_model.config._attn_implementation = "sdpa"
    heads = paid["weights"].shape[1] // 2
    weights = paid["weights"][
        torch.from_numpy(batch.attention_rows), :heads, torch.from_numpy(batch.attention_positions)
    ]
    on_object = (weights * torch.from_numpy(batch.attention_targets)[:, None]).sum(-1)
    with torch.no_grad():
        loss, _ = run(model, batch)
    assert float(loss) == pytest.approx(float(-on_object.log().mean()), rel=1e-4)


def test_only_tokens_that_predict_content_are_supervised_and_only_towards_the_object(packer: Packer) -> None:
    box = (0.0, 0.0, 500.0, 500.0)
    cells = (
        VisualTokenTarget(box, ("red", "star", "")),
        VisualTokenTarget(),
        VisualTokenTarget(),
        VisualTokenTarget(box, ("red", "star", "")),
    )
    row = PackedRow(
        ("see ", np.zeros((64, 64, 3), np.uint8)),
        (
            Branch("where?\n", "[7, 9]", True, target_box=box),
            Branch("what?\n", "red star"),
            Branch("x\n", "red", target_box=box),
        ),
        cells,
    )
    (batch,) = packer.pack([row])
    assert batch.attention_rows.tolist() == [0] * 3  # two numbers, one word; the second branch is not supervised
    assert (batch.weights[0, batch.attention_positions] == 1.0).all()
    visual = np.flatnonzero(batch.input_ids[0] == build_tokenizer().convert_tokens_to_ids("<|image_pad|>"))
    for target in batch.attention_targets:
        assert np.flatnonzero(target).tolist() == [visual[0], visual[3]]


def test_a_step_along_the_gradient_increases_attention(packer: Packer) -> None:
    model = build_model(build_tokenizer(), 0)
    (batch,) = packer.pack([overview_row(np.random.default_rng(1), LEVELS[-3])])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before, _ = run(model, batch)
    before.backward()
    optimizer.step()
    after, _ = run(model, batch)
    assert float(after.detach()) < float(before.detach())

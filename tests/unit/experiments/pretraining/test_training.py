"""Packed rows are exact, the loss is correct, and an interrupted run equals the uninterrupted one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hart_studio import prompts
from hart_studio.experiments.pretraining import curriculum, tasks, train
from hart_studio.experiments.pretraining.curriculum import LEVELS
from hart_studio.experiments.pretraining.objective import (
    LossTotals,
    PretrainingModel,
    compute_loss,
    mean_pool_objects,
    soft_numbers,
    tree_mask,
)
from hart_studio.experiments.pretraining.packing import IGNORED, STEM_STRIDE, Branch, PackedRow, Packer
from hart_studio.experiments.pretraining.tasks import (
    conversation_row,
    crop_row,
    detail_row,
    make_step_rows,
    overview_row,
    point_branches,
)
from hart_studio.experiments.pretraining.tiny_model import (
    build_model,
    build_processor,
    build_tokenizer,
    number_token_ids,
)
from hart_studio.experiments.pretraining.train import PretrainingConfig
from hart_studio.needle.scenes import SceneSettings, make_scene

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    """Training sets the threads of its process, which all tests share."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def parts():
    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer)
    return tokenizer, processor, build_model(tokenizer, 3).eval(), Packer(tokenizer, processor.image_processor)


def image(seed: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def two_image_row() -> PackedRow:
    return PackedRow(("see ", image(0, 96, 64), " and ", image(1, 64, 128)), tuple(BRANCHES.values()))


BRANCHES = {
    STEM_STRIDE + 1: Branch("one?\n", "red star"),
    STEM_STRIDE + 2: Branch("3\n", "7"),
    2 * STEM_STRIDE + 1: Branch("and the other one?\n", "[12, 900]", True, stem="Where is it?\n"),
    2 * STEM_STRIDE + 2: Branch("the star\n", "[7]", True, stem="Where is it?\n"),
}


def hidden_of(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model.model(
            input_ids=torch.from_numpy(batch.input_ids),
            position_ids=torch.from_numpy(batch.positions),
            attention_mask=tree_mask(torch.from_numpy(batch.branch)),
            pixel_values=torch.from_numpy(batch.pixel_values),
            image_grid_thw=torch.from_numpy(batch.grids),
            use_cache=False,
        ).last_hidden_state


def test_a_packed_branch_equals_its_conversation_alone(parts) -> None:
    _, _, model, packer = parts
    row = two_image_row()
    (packed,) = packer.pack([row])
    together = hidden_of(model, packed)[0]
    for number, branch in BRANCHES.items():
        (alone,) = packer.pack([PackedRow(row.prefix, (replace(branch, prompt=branch.stem + branch.prompt, stem=""),))])
        own = alone.branch[0] == STEM_STRIDE + 1
        own[np.flatnonzero(own)[: len(packer._encode(branch.stem))]] = False
        ids = torch.from_numpy(alone.input_ids)
        kinds = (ids == model.config.image_token_id).int()
        with torch.no_grad():  # no explicit positions or mask: those of the model
            plain = model.model(
                input_ids=ids,
                mm_token_type_ids=kinds,
                pixel_values=torch.from_numpy(alone.pixel_values),
                image_grid_thw=torch.from_numpy(alone.grids),
            ).last_hidden_state[0]
        mine = together[torch.from_numpy(packed.branch[0] == number)]
        torch.testing.assert_close(mine, plain[torch.from_numpy(own)], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("siblings", ["branches of a stem", "stems"])
def test_branches_would_differ_if_they_saw_each_other(parts, siblings: str) -> None:
    _, _, model, packer = parts
    (packed,) = packer.pack([two_image_row()])
    right = hidden_of(model, packed)
    merged = packed.branch // STEM_STRIDE * STEM_STRIDE if siblings == "branches of a stem" else STEM_STRIDE
    packed.branch = np.where(packed.branch > 0, merged, packed.branch)
    assert (hidden_of(model, packed) - right).abs().max() > 0.01


def test_labels_say_what_comes_next(parts) -> None:
    tokenizer, _, _, packer = parts
    (packed,) = packer.pack([two_image_row()])
    for number, branch in BRANCHES.items():
        labels = packed.labels[0][(packed.branch[0] == number)]
        assert tokenizer.decode(labels[labels != IGNORED]) == branch.reply + "<|im_end|>"
    coordinates = packed.coordinates[0]
    assert coordinates[coordinates >= 0].tolist() == [12, 900, 7]


def test_rows_are_batched_by_length_without_loss(parts) -> None:
    _, _, _, packer = parts
    rng = np.random.default_rng(0)
    rows = [overview_row(rng, LEVELS[-2]) for _ in range(9)]
    batches = packer.pack(rows, token_budget=900)
    assert len(batches) > 1
    assert sum(len(batch.input_ids) for batch in batches) == 9
    assert all(batch.input_ids.size <= 900 or len(batch.input_ids) == 1 for batch in batches)
    whole = packer.pack(rows, token_budget=10**9)
    assert len(whole) < len(batches)
    weights = [sum(float(batch.weights.sum()) for batch in made) for made in (batches, whole)]
    assert weights[0] == pytest.approx(weights[1])


def template_text(processor, messages) -> list[int]:
    return processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )["input_ids"][0].tolist()


def test_rows_use_the_same_tokens_as_the_chat_template(parts) -> None:
    _, processor, _, packer = parts
    shown = image(2, 256, 192)
    for prompt in (
        prompts.grounding_prompt("Where is the red star?"),
        prompts.direct_prompt("What colour is the star?", ("red", "blue")),
        prompts.crops_only_prompt("What colour is the star?", ("red", "blue"), 2),
    ):
        count = sum(part is prompts.IMAGE for part in prompt)
        prefix, _ = tasks._user_text(prompt, [shown] * count)
        row = PackedRow((tasks._USER, *prefix), (tasks._branch(prompt, "yes"),))
        (packed,) = packer.pack([row])
        content = [
            {"type": "image", "image": Image.fromarray(shown)}
            if part is prompts.IMAGE
            else {"type": "text", "text": part}
            for part in prompt
        ]
        expected = template_text(processor, [{"role": "user", "content": content}])
        assert packed.input_ids[0][: len(expected)].tolist() == expected


def test_the_soft_target_prefers_the_value_and_its_neighbors(parts) -> None:
    tokenizer, _, model, packer = parts
    numbers = torch.tensor(number_token_ids(tokenizer))
    (batch,) = packer.pack([overview_row(np.random.default_rng(0), LEVELS[-1])])
    with torch.no_grad():
        loss, _, result = compute_loss(PretrainingModel(model), batch, numbers, sigma=4.0)
    assert result.coordinates[0] >= 1 and result.answers[0] >= 1
    assert float(loss) == pytest.approx(result.loss)
    assert result.mean_loss > 3.0  # untrained: near the log of the vocabulary


def test_soft_numbers_by_hand() -> None:
    soft = soft_numbers(torch.tensor([500, 0]), sigma=2.0)
    torch.testing.assert_close(soft.sum(-1), torch.ones(2))
    assert soft.argmax(-1).tolist() == [500, 0]
    assert float(soft[0, 502] / soft[0, 500]) == pytest.approx(np.exp(-0.5), rel=1e-4)  # one sigma away
    assert float(soft[0, 498]) == pytest.approx(float(soft[0, 502]))


def test_the_vision_level_trains_the_vision_tower_only(parts) -> None:
    tokenizer, _, _, packer = parts
    model = build_model(tokenizer, 1)
    overviews, _ = make_step_rows(np.random.default_rng(0), LEVELS[0], growth=0.0)
    (batch,) = packer.pack(overviews[:2], token_budget=10**9)
    loss, cells, result = compute_loss(
        PretrainingModel(model), batch, torch.tensor(number_token_ids(tokenizer)), sigma=4.0
    )
    assert float(loss) == 0.0 and result.words[0] > 0
    cells.backward()
    assert model.model.visual.patch_embed.proj.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.model.language_model.layers.parameters())


def test_cells_say_what_lies_under_each_visual_token() -> None:
    level = LEVELS[-1]
    row = overview_row(np.random.default_rng(4), level)
    columns, rows = level.size_wh[0] // 32, level.size_wh[1] // 32
    assert len(row.cells) == columns * rows
    for index, cell in enumerate(row.cells):
        assert (cell.xyxy is None) == (cell.words == ("", "", ""))
        assert cell.words[2] == ""  # the overview never teaches a detail
        if cell.xyxy:
            x, y = (index % columns + 0.5) / columns * 1000, (index // columns + 0.5) / rows * 1000
            x_min, y_min, x_max, y_max = cell.xyxy
            assert x_min - 130 < x < x_max + 130 and y_min - 170 < y < y_max + 170
    crop = crop_row(np.random.default_rng(4), 1.0)
    assert any(cell.words[2] for cell in crop.cells)


def test_the_tokens_of_an_object_share_a_number(parts) -> None:
    _, _, _, packer = parts
    row = overview_row(np.random.default_rng(4), LEVELS[-1])
    (batch,) = packer.pack([row, row])
    half = len(row.cells)
    numbers = batch.cell_objects
    assert ((numbers >= 0) == (batch.cell_coordinates[:, 0] >= 0)).all()
    assert not set(numbers[:half]) & set(numbers[half:]) - {-1}
    for number in set(numbers[:half]) - {-1}:
        assert len({row.cells[index].xyxy for index in np.flatnonzero(numbers == number)}) == 1


def test_pooling_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 2.0], [9.0, 9.0], [4.0, 4.0]])
    words = torch.tensor([[5, 6, -1], [5, 6, 7], [-1, -1, -1], [8, 9, -1]])
    pooled, pooled_words = mean_pool_objects(features, words, torch.tensor([0, 0, -1, 1]))
    assert pooled.tolist() == [[2.0, 1.0], [4.0, 4.0]]
    assert pooled_words.tolist() == [[5, 6, 7], [8, 9, -1]]


@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_every_level_makes_rows(parts, level: int) -> None:
    _, _, _, packer = parts
    overviews, crops = make_step_rows(np.random.default_rng(level), LEVELS[level], growth=1.0)
    asked = LEVELS[level]
    assert len(overviews) == asked.rows
    conversations = 0 if asked.is_vision_only else 1
    assert len(crops) == asked.crops + asked.details + conversations
    for batch in packer.pack(overviews[:2] + crops[:2]):
        assert np.isfinite(batch.pixel_values).all()
        assert batch.coordinates.max() <= 1000 and batch.cell_coordinates.max() <= 1000
        assert len(batch.cell_words) == (batch.grids.prod(axis=1) // 4).sum()


def test_a_close_up_shows_one_detail_whole() -> None:
    for seed in range(20):
        row = detail_row(np.random.default_rng(seed), growth=1.0)
        assert row.prefix[1].shape == (96, 96, 3)
        details = {cell.words[2] for cell in row.cells} - {""}
        assert len(details) == 1
        assert {cell.words[1] for cell in row.cells} == {""}  # a shape cannot be recognized from its center


def test_points_and_names_agree_with_the_scene() -> None:
    rng = np.random.default_rng(0)
    scene = make_scene(rng, SceneSettings())
    centers = {
        o.name: f"[{round(1000 * o.x / scene.width)}, {round(1000 * o.y / scene.height)}]" for o in scene.objects
    }
    branches = point_branches(rng, scene, 99)
    pointed = [b for b in branches if b.is_grounding]
    assert len(pointed) == len(scene.objects)
    for branch in pointed:
        name = branch.prompt.removeprefix("Point to the ").split(".")[0]
        assert branch.reply == centers[name]
    for branch in set(branches) - set(pointed):
        assert centers[branch.reply] in branch.prompt


def test_only_the_first_coordinate_of_a_box_counts_as_a_hit(parts) -> None:
    tokenizer, _, model, packer = parts
    row = PackedRow(
        ("x", image(0, 64, 64)), (Branch("a\n", "[1, 2, 3, 4] [5, 6, 7, 8]", True), Branch("b\n", "[9, 9]", True))
    )
    (batch,) = packer.pack([row])
    assert batch.coordinates[batch.is_first].tolist() == [1, 5, 9]
    with torch.no_grad():
        _, _, result = compute_loss(
            PretrainingModel(model), batch, torch.tensor(number_token_ids(tokenizer)), sigma=4.0
        )
    assert result.coordinates[0] == 3


def test_rows_of_very_different_length_are_not_padded_together(parts) -> None:
    _, _, _, packer = parts
    rng = np.random.default_rng(0)
    batches = packer.pack([detail_row(rng, 1.0), crop_row(rng, 1.0), detail_row(rng, 1.0)], token_budget=10**9)
    assert [len(batch.input_ids) for batch in batches] == [2, 1]


def test_crop_and_conversation_rows_withhold_or_keep_the_overview() -> None:
    rng = np.random.default_rng(0)
    crop = crop_row(rng, 1.0)
    assert "supposed to answer" in str(crop.prefix[0])
    talk = conversation_row(rng, LEVELS[-1])
    images = [part.shape for part in talk.prefix if isinstance(part, np.ndarray)]
    assert len(images) == 2 and images[0] == (192, 256, 3)


@pytest.mark.extended
def test_an_interrupted_run_repeats_the_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = {"objects": (1, 1), "radius": (0.2, 0.3)}
    vision = curriculum._vision_level((64, 64), 2, 0, advance_at=2.0, **scenes)
    point = replace(vision, is_vision_only=False, groundings=1, goal="coordinate_hit")
    small = [point, point, point, vision]
    monkeypatch.setattr(train, "LEVELS", small)
    straight = train.train(PretrainingConfig(tmp_path / "a", steps=4))
    train.train(PretrainingConfig(tmp_path / "b", steps=2))
    resumed = train.train(PretrainingConfig(tmp_path / "b", steps=4, resume=True))
    first, second = load_file(straight / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    progress = json.loads((tmp_path / "b" / "checkpoint" / "progress.json").read_text())
    assert progress["step"] == 4


@pytest.mark.extended
def test_two_processes_train_together(tmp_path: Path) -> None:
    """Real processes over gloo; both must agree on every step or the run would hang."""
    folder = train.train(PretrainingConfig(tmp_path, steps=2, processes=2))
    assert (folder / "model.safetensors").exists()
    progress = json.loads((tmp_path / "checkpoint" / "progress.json").read_text())
    assert progress["step"] == 2
    start = build_model(build_tokenizer(), 0).state_dict()
    made = load_file(folder / "model.safetensors")
    assert all(value.isfinite().all() for value in made.values())
    assert not torch.equal(
        made["model.visual.merger.linear_fc1.weight"], start["model.visual.merger.linear_fc1.weight"]
    )


def test_counts_add_up_over_processes() -> None:
    first = LossTotals(1.5, 2.0, (3, 1), (4, 2), (5, 3), (2, 1))
    second = LossTotals(0.5, 1.0, (1, 1), (0, 0), (2, 2), (7, 0))
    summed = [a + b for a, b in zip(first.as_list(), second.as_list(), strict=True)]
    assert LossTotals.from_list(summed) == first + second


def test_the_command_refuses_a_folder_with_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for more in ([], ["--resume"]):
        with pytest.raises(SystemExit) as stopped:
            train.main(["--out", str(tmp_path), "--steps", "1", *more])
        assert stopped.value.code == 2
        assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

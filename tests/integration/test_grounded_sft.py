"""SFT on grounded answers: label boxes and then the answer from their crops, for all families."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hart_studio.imaging import SourceImage
from hart_studio.models.loading import load_model
from hart_studio.parsing import convert_to_original, parse_boxes
from hart_studio.records import Box
from hart_studio.training.sft import SftTargetBuilder
from hart_studio.training.train import run
from hart_studio.training.trainable_model import TrainableModel
from tests.integration.test_training_run import losses, start
from tests.integration.training_runs import make_samples, small_config, write_jsonl
from tests.tiny_models import FAMILY_KEYS

pytestmark = [pytest.mark.core, pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]

LABEL = Box.from_xyxy((40, 30, 110, 100), label="red star")


@pytest.mark.parametrize("key", FAMILY_KEYS)
def test_what_is_taught_is_read_back_as_the_label(tiny_folder: Callable[[str], Path], tmp_path: Path, key: str) -> None:
    config = small_config(tiny_folder(key), "sft", method={"sft_target": "grounded"})
    loaded = load_model(str(tiny_folder(key)), device="cpu")
    policy = TrainableModel(loaded.model, loaded.processor, "policy")
    (sample,) = make_samples(tmp_path, 1)
    sample = sample.model_copy(update={"label_boxes": (LABEL,)})
    pointing, answer = SftTargetBuilder(policy, config, SourceImage).read(sample)
    assert all(pointing.is_trained) and all(answer.is_trained)
    image = pointing.prompt.images[0]
    text = loaded.processor.tokenizer.decode(pointing.completion_ids[:-1])
    ((box,), _) = convert_to_original(parse_boxes(text), policy.family.box_frame, (240, 200), image.size_wh)
    assert box.xyxy == pytest.approx(LABEL.xyxy, abs=1.5), "rounded to the family's own steps"
    assert len(answer.prompt.images) == 1 and answer.prompt.images[0] is not image, "the image is withheld"
    assert loaded.processor.tokenizer.decode(answer.completion_ids[:-1]) == "red \\boxed{A}"
    with pytest.raises(ValueError, match="The sample s0 has no label_boxes"):
        SftTargetBuilder(policy, config, SourceImage).read(sample.model_copy(update={"label_boxes": ()}))


def test_a_run_learns_boxes_and_answers_and_counts_samples_without_labels(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "data", 8)
    lines = data.read_text().splitlines()
    labeled = [line[:-1] + ', "label_boxes": [{"box": [40, 30, 110, 100], "label": "it"}]}' for line in lines[1:]]
    data.write_text("\n".join([lines[0], *labeled]) + "\n")
    config = small_config(
        tiny_folder("qwen2_5_vl"),
        "sft",
        method={"sft_target": "grounded"},
        data={"source": "jsonl", "path": str(data), "sft_samples": 8},
        schedule={"sft_steps": 4, "sft_batch_size": 2},
    )
    layout = start(config, tmp_path)
    assert run(config, layout.folder).model is not None
    steps = losses(layout)
    assert len(steps) == 4 and all(loss for _, loss, _ in steps)
    events = layout.events.read_text()
    assert '"failed_share":0.5' in events.replace(" ", ""), "one of two samples of a step had no label"

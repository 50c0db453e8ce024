from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from hart_studio.errors import DataError, InputError
from hart_studio.records import Box, GoldSample, RolloutGroup, Sample
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.rollouts import (
    GroupImages,
    ImageStore,
    find_image,
    list_rollout_steps,
    read_groups,
    save_groups,
)

PLENTY = 10_000_000


def noise(seed: int, wh: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.frombytes("RGB", wh, random.Random(seed).randbytes(3 * wh[0] * wh[1]))


def record(
    layout: RunLayout,
    sample: Sample,
    group: RolloutGroup,
    crops: Sequence[Sequence[Image.Image]] = ((), ()),
    overview: Image.Image | None = None,
    max_bytes: int = PLENTY,
) -> ImageStore:
    store = ImageStore(layout.images, max_bytes)
    save_groups(layout, 10, [GroupImages(sample, group, (4096, 3072), overview, crops)], store)
    return store


def test_a_group_comes_back_with_its_images(layout: RunLayout, sample: Sample, group: RolloutGroup) -> None:
    record(layout, sample, group, [[noise(1), noise(2)], []], noise(0, (4096, 512)))
    (saved,) = read_groups(layout, 10)
    assert (saved.sample, saved.group, saved.image_wh) == (sample, group, (4096, 3072))
    assert saved.overview
    with Image.open(find_image(layout, saved.overview)) as overview:
        assert (overview.format, overview.size) == ("JPEG", (1024, 128))
    assert [len(names) for names in saved.crops] == [2, 0]
    for name in saved.crops[0]:
        assert name
        with Image.open(find_image(layout, name)) as crop:
            assert crop.size == (64, 48)
    assert list_rollout_steps(layout) == [10]


def test_a_image_without_color_or_with_transparency_is_stored(layout: RunLayout) -> None:
    store = ImageStore(layout.images, PLENTY)
    assert store.save(Image.new("L", (3, 3)))
    assert store.save(Image.new("RGBA", (1, 2000)))


def test_equal_images_are_stored_once(layout: RunLayout, sample: Sample, group: RolloutGroup) -> None:
    record(layout, sample, group, [[noise(1)], [noise(1), noise(2)]], noise(0))
    record(layout, sample, group, [[noise(1)], []], noise(0))
    assert len(list(layout.images.iterdir())) == 3


def test_images_stay_within_their_share_of_the_disk(layout: RunLayout, sample: Sample, group: RolloutGroup) -> None:
    size = len((layout.images / (ImageStore(layout.images, PLENTY).save(noise(0)) or "")).read_bytes())
    store = record(layout, sample, group, [[noise(1), noise(2)], [noise(3)]], noise(0), max_bytes=int(2.5 * size))
    (saved,) = read_groups(layout, 10)
    stored = [saved.overview, *saved.crops[0], *saved.crops[1]]
    assert [name is not None for name in stored] == [True, True, False, False]
    assert store.is_full
    assert sum(path.stat().st_size for path in layout.images.iterdir()) <= 2.5 * size
    again = ImageStore(layout.images, int(2.5 * size))
    assert again.save(noise(4)) is None, "a later attempt counts what is there"
    assert again.save(noise(1)) == saved.crops[0][0], "an existing image needs no space"


def test_the_same_step_of_a_later_attempt_replaces_the_record(
    layout: RunLayout, sample: Sample, group: RolloutGroup
) -> None:
    record(layout, sample, group)
    record(layout, sample, group)
    assert len(read_groups(layout, 10)) == 1


def test_a_gold_box_is_never_written(layout: RunLayout, sample: Sample, group: RolloutGroup) -> None:
    gold = GoldSample(**dict(sample), gold_boxes=(Box.from_xyxy((1, 2, 3, 4)),))
    record(layout, gold, group)
    assert "gold" not in layout.rollouts_of(10).read_text()
    assert read_groups(layout, 10)[0].sample == sample


def test_crops_must_belong_to_the_rollouts(layout: RunLayout, sample: Sample, group: RolloutGroup) -> None:
    with pytest.raises(ValidationError, match="expected crops for 2 rollouts, got 1"):
        record(layout, sample, group, [[]])


@pytest.mark.parametrize(
    "name",
    [
        "../step_000010.jsonl",
        "../../status.json",
        "/etc/passwd",
        "",
        ".",
        "none.jpg",
        "a\0.jpg",
        "link.jpg",
        "note.txt",
    ],
)
def test_a_name_that_leads_out_is_refused(layout: RunLayout, name: str, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").touch()
    (layout.images / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (layout.images / "note.txt").touch()
    with pytest.raises(InputError):
        find_image(layout, name)


def test_a_line_that_is_no_group_is_named(layout: RunLayout, sample: Sample, group: RolloutGroup) -> None:
    record(layout, sample, group)
    value = json.loads(layout.rollouts_of(10).read_text())
    with layout.rollouts_of(10).open("a") as file:
        file.write(json.dumps(value | {"image_wh": [1]}) + "\n")
    with pytest.raises(DataError, match="line 2 is not a valid rollout group: image_wh"):
        read_groups(layout, 10)
    with pytest.raises(DataError, match="No such file"):
        read_groups(layout, 11)


def test_only_records_are_listed(layout: RunLayout) -> None:
    for name in ("step_000020.jsonl", "step_1000000.jsonl", "step_x.jsonl", ".step_000001.jsonl", "notes.jsonl"):
        (layout.rollouts / name).touch()
    assert list_rollout_steps(layout) == [20, 1_000_000]
    assert list_rollout_steps(RunLayout(layout.folder / "none")) == []

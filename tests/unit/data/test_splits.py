import hashlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hart_studio.data.splits import (
    Split,
    fingerprint,
    read_manifest,
    restore_split,
    split_samples,
    write_manifest,
)
from hart_studio.errors import DataError, InputError
from hart_studio.records import Box, GoldSample, Sample

unhurried = settings(suppress_health_check=[HealthCheck.too_slow])


def make_sample(name: str, image: str = "", folder: str = "/data") -> GoldSample:
    return GoldSample(
        id=name,
        image=f"{folder}/{image or name}.png",
        question="?",
        answer="yes",
        gold_boxes=(Box.from_xyxy((0, 0, 1, 1)),),
    )


def make_samples(count: int) -> list[GoldSample]:
    return [make_sample(f"s{index}") for index in range(count)]


def ids(split: Split) -> tuple[list[str], list[str], list[str]]:
    evaluation, rl, sft = ([sample.id for sample in part] for part in (split.evaluation, split.rl, split.sft))
    return evaluation, rl, sft


image_numbers = st.lists(st.integers(0, 9), min_size=1, max_size=30)
"""The image of each sample."""


def test_the_order_is_that_of_the_hashes() -> None:
    order = sorted((f"s{i}" for i in range(6)), key=lambda name: hashlib.sha256(f"5:{name}".encode()).digest())
    found = ids(split_samples(make_samples(6), 2, None, 1, seed=5, split_by_image=False))
    assert found == (order[:1], order[1:3], order[3:])


@unhurried
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12) | st.none(), st.integers(0, 99))
def test_parts_are_disjoint_and_of_their_sizes(
    eval_samples: int, rl_samples: int, sft_samples: int | None, seed: int
) -> None:
    samples = make_samples(eval_samples + rl_samples + (sft_samples or 0) + 3)
    if eval_samples + rl_samples + (sft_samples or 0) == 0 and sft_samples is not None:
        return
    evaluation, rl, sft = ids(
        split_samples(samples, rl_samples, sft_samples, eval_samples, seed=seed, split_by_image=False)
    )
    assert (len(evaluation), len(rl), len(sft)) == (eval_samples, rl_samples, 3 if sft_samples is None else sft_samples)
    assert max(Counter(evaluation + rl + sft).values()) == 1


@unhurried
@given(st.permutations(range(12)), st.integers(0, 99), st.booleans())
def test_the_split_depends_on_the_seed_and_on_nothing_around_the_data(
    order: list[int], seed: int, split_by_image: bool
) -> None:
    samples = [make_sample(f"s{index}", image=f"p{index // 2}") for index in range(12)]
    moved = [make_sample(f"s{index}", image=f"p{index // 2}", folder="/elsewhere") for index in order]
    first = split_samples(samples, 4, 4, 4, seed=seed, split_by_image=split_by_image)
    assert split_samples(moved, 4, 4, 4, seed=seed, split_by_image=split_by_image).manifest == first.manifest


def test_another_seed_is_another_split() -> None:
    found = {
        str(ids(split_samples(make_samples(30), 10, None, 5, seed=seed, split_by_image=False))) for seed in range(10)
    }
    assert len(found) == 10


@unhurried
@given(image_numbers, st.data())
def test_no_image_is_in_two_parts(numbers: list[int], data: st.DataObject) -> None:
    samples = [make_sample(f"s{index}", image=f"p{number}") for index, number in enumerate(numbers)]
    eval_samples = data.draw(st.integers(0, len(samples)))
    rl_samples = data.draw(st.integers(0, len(samples) - eval_samples))
    sft_samples = data.draw(st.none() | st.integers(0, len(samples) - eval_samples - rl_samples))
    try:
        split = split_samples(samples, rl_samples, sft_samples, eval_samples, seed=1, split_by_image=True)
    except InputError:
        assert eval_samples + rl_samples + (sft_samples or 0) == 0 or max(Counter(numbers).values()) > 1
        return
    parts = [split.evaluation, split.rl, split.sft]
    images = [{sample.image for sample in part} for part in parts]
    assert sum(map(len, images)) == len(set().union(*images))
    assert split.manifest.shared_images == 0
    # A part that stopped short is too small for any image that was assigned after it.
    questions = Counter(sample.image for sample in samples)
    assert all(
        len([s for s in part if s.image == image]) == questions[image]
        for part in parts
        for image in {s.image for s in part}
    )
    later = set(questions)
    for part, found, size in zip(parts, images, (eval_samples, rl_samples, sft_samples), strict=True):
        later -= found
        if size is None:
            assert not later
        else:
            assert len(part) <= size
            assert all(questions[image] > size - len(part) for image in later)


@unhurried
@given(st.integers(1, 10), st.integers(1, 10), st.integers(0, 9), st.booleans())
def test_the_held_out_part_does_not_depend_on_the_training_parts(
    first: int, second: int, seed: int, split_by_image: bool
) -> None:
    samples = [make_sample(f"s{index}", image=f"p{index // 3}") for index in range(30)]
    held_out = [
        split_samples(samples, 3 * count, None, 9, seed=seed, split_by_image=split_by_image).evaluation
        for count in (first % 8, second % 8)
    ]
    assert held_out[0] == held_out[1]


def test_images_in_several_parts_are_counted() -> None:
    samples = [make_sample(name, image=image) for name, image in zip("abcdef", "111223", strict=True)]
    manifest = split_samples(samples, 3, None, 0, seed=0, split_by_image=False).manifest
    image_of = dict(zip("abcdef", "111223", strict=True))
    shared = {image_of[name] for name in manifest.rl_ids} & {image_of[name] for name in manifest.sft_ids}
    assert manifest.shared_images == len(shared) > 0


def test_only_the_held_out_part_has_gold_boxes() -> None:
    split = split_samples(make_samples(9), 3, 3, 3, seed=0, split_by_image=False)
    assert all(type(sample) is Sample for sample in (*split.rl, *split.sft))
    assert all(sample.gold_boxes for sample in split.evaluation)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((-1, None, 0), "expected counts of at least 0"),
        ((4, 4, 4), "12 samples requested .* but the dataset has 9"),
        ((10, None, 0), "10 samples requested .* but the dataset has 9"),
        ((0, 0, 0), "No samples requested"),
    ],
)
def test_counts_that_cannot_be(counts: tuple[int, int | None, int], message: str) -> None:
    rl_samples, sft_samples, eval_samples = counts
    with pytest.raises(InputError, match=message):
        split_samples(make_samples(9), rl_samples, sft_samples, eval_samples, seed=0, split_by_image=False)


def test_a_part_that_no_image_fits_is_an_error() -> None:
    samples = [make_sample(f"s{index}", image="one") for index in range(9)]
    with pytest.raises(InputError, match="No remaining image has at most rl_samples = 3 questions"):
        split_samples(samples, 3, None, 0, seed=0, split_by_image=True)
    assert len(split_samples(samples, 3, None, 0, seed=0, split_by_image=False).rl) == 3


def test_an_id_twice_is_an_error() -> None:
    with pytest.raises(DataError, match="The id 's0' occurs more than once"):
        split_samples([*make_samples(3), make_sample("s0")], 1, None, 1, seed=0, split_by_image=False)


# Manifest -----------------------------------------------------------------------------------------------------------


def test_the_manifest_makes_the_split_again(tmp_path: Path) -> None:
    samples = make_samples(9)
    split = split_samples(samples, 3, None, 2, seed=4, split_by_image=True)
    write_manifest(tmp_path / "split.json", split.manifest)
    manifest = read_manifest(tmp_path / "split.json")
    assert manifest == split.manifest
    assert (manifest.seed, manifest.split_by_image) == (4, True)
    assert restore_split(samples[::-1], manifest) == split


def test_other_data_are_refused() -> None:
    samples = make_samples(9)
    manifest = split_samples(samples, 3, None, 2, seed=4, split_by_image=False).manifest
    changed = samples[0].model_copy(update={"answer": "no"})
    for others in (samples[1:], [changed, *samples[1:]]):
        with pytest.raises(DataError, match="The dataset differs from the one this run started with"):
            restore_split(others, manifest)
    for wrong in ((*manifest.rl_ids, manifest.sft_ids[0]), ("stranger",)):
        with pytest.raises(DataError, match="duplicate or unknown id"):
            restore_split(samples, manifest.model_copy(update={"rl_ids": wrong}))


@pytest.mark.parametrize("change", [{"answer": "no"}, {"question": "??"}, {"gold_boxes": ()}, {"image": "/data/b.png"}])
def test_the_fingerprint_covers_what_is_asked(change: dict[str, object]) -> None:
    sample = make_sample("a")
    assert fingerprint([sample.model_copy(update=change)]) != fingerprint([sample])


@pytest.mark.parametrize("text", [None, "", "{}", '{"seed": 1, "surprise": 2}'])
def test_what_is_no_manifest(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "split.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match="Cannot read the split manifest") as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)

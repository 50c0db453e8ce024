from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

import hart_studio
from hart_studio.errors import ImageError, InputError
from hart_studio.imaging import SourceImage
from hart_studio.pipeline.inference import ask_question, build_sample
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.trace import Trace
from hart_studio.records import PROTOCOLS, Protocol
from tests.fakes import ScriptedModel, images_in
from tests.unit.pipeline.conftest import boxes_text

BOX = boxes_text((100, 200, 300, 400))
CHOICES = ("3", "7")


def make_model(**scripts: Any) -> ScriptedModel:
    defaults = {"grounding": BOX, "crops_only": r"\boxed{B}", "direct": r"\boxed{A}", "full_and_crops": r"\boxed{B}"}
    return ScriptedModel(**{**defaults, **scripts})


def ask(model: ScriptedModel, image: Path, **more: Any) -> Trace:
    arguments = {
        "question": "Which digit?",
        "choices": CHOICES,
        "answer": "7",
        "protocols": PROTOCOLS,
        "settings": LoopSettings(),
    }
    return ask_question(model, str(image), **{**arguments, **more})


def test_all_protocols_share_one_overview_and_one_grounding(image: Path) -> None:
    model = make_model()
    trace = ask(model, image)
    assert model.kinds() == [["grounding"], ["crops_only"], ["direct"], ["full_and_crops"], ["direct"]]
    overviews = [images_in(model.requests(kind)[0])[0] for kind in ("grounding", "direct", "full_and_crops")]
    assert overviews[0] is overviews[1] is overviews[2]
    assert images_in(model.requests("crops_only")[0]) == images_in(model.requests("full_and_crops")[0])[1:]
    assert {name: rollout.score.value for name, rollout in trace.protocols.items()} == {
        "crops_only": 1.0,
        "direct": 0.0,
        "full_and_crops": 1.0,
    }
    assert trace.verification is not None
    assert trace.verification.sufficiency == 1.0
    assert trace.verification.full_image == trace.protocols["direct"]


def test_the_trace_says_what_was_asked_of_what(image: Path) -> None:
    trace = ask(make_model(), image, settings=LoopSettings(padding=0.1))
    assert trace.app_version == hart_studio.__version__
    assert trace.created_at.utcoffset() is not None
    assert trace.image.model_dump() == {
        "name": "noise.png",
        "width": 1200,
        "height": 900,
        "format": "PNG",
        "sha256": hashlib.sha256(image.read_bytes()).hexdigest(),
    }
    assert (trace.question, trace.choices, trace.answer) == ("Which digit?", CHOICES, "B")
    assert (trace.model.name, trace.model.family) == ("scripted", "qwen3_vl")
    assert trace.settings == LoopSettings(padding=0.1, overview_max_pixels=256 * 256, crop_max_pixels=192 * 192)
    assert str(image.parent) not in trace.model_dump_json()


@pytest.mark.parametrize(
    ("protocols", "kinds", "is_verified"),
    [
        (["direct"], [["direct"]], False),
        (["crops_only"], [["grounding"], ["crops_only"]], True),
        (["full_and_crops"], [["grounding"], ["full_and_crops"]], False),
        (["direct", "crops_only"], [["grounding"], ["crops_only"], ["direct"], ["direct"]], True),
    ],
)
def test_only_what_was_asked_for_runs(
    image: Path, protocols: list[Protocol], kinds: list[list[str]], is_verified: bool
) -> None:
    model = make_model()
    trace = ask(model, image, protocols=protocols)
    assert model.kinds() == kinds
    assert set(trace.protocols) == set(protocols)
    assert (trace.verification is not None) == is_verified
    assert trace.boxes == (() if protocols == ["direct"] else trace.grounded.boxes if trace.grounded else None)


def test_several_rollouts_feed_the_self_check_and_the_first_is_shown(image: Path) -> None:
    model = make_model(grounding=[BOX, "nowhere", BOX], crops_only=[r"\boxed{A}", r"\boxed{B}"])
    trace = ask(model, image, rollouts=3, settings=LoopSettings(temperature=1.0))
    assert model.calls[0].group_size == 3
    assert [len(call.requests) for call in model.calls] == [1, 2, 1, 1, 1]
    assert trace.protocols["crops_only"].score.extracted == "A"
    assert trace.verification is not None
    assert len(trace.verification.rollouts) == 3
    assert trace.verification.sufficiency == pytest.approx(1 / 3)


def test_no_box_leaves_nothing_to_mask(image: Path) -> None:
    model = make_model(grounding="nowhere", crops_only=None, full_and_crops=None)
    trace = ask(model, image)
    assert trace.protocols["crops_only"].outcome == trace.protocols["full_and_crops"].outcome == "no_box"
    assert trace.verification is not None
    assert trace.verification.masked is None
    assert trace.crops == ()


def test_progress_only_grows_and_ends_at_one(image: Path) -> None:
    shares: list[float] = []
    stages: list[str] = []

    def report(share: float, stage: str) -> None:
        shares.append(share)
        stages.append(stage)

    ask(make_model(), image, progress=report)
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert len(set(stages)) == len(stages) == 7


def test_a_caller_may_share_an_open_image(image: Path) -> None:
    source = SourceImage(image)
    full = source.full()
    ask(make_model(), image, open_image=lambda _: source)
    assert source.full() is full, "a lone image stays decoded"


def test_an_unreadable_image_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        ask(make_model(), tmp_path / "nowhere.png")


def test_an_image_that_breaks_on_the_way_is_raised(image: Path) -> None:
    source = SourceImage(image)

    def cut_short(_: object) -> str:
        source.close()
        image.write_bytes(image.read_bytes()[:5000])
        return BOX

    with pytest.raises(ImageError, match=r"noise\.png"):
        ask(make_model(grounding=cut_short), image, open_image=lambda _: source)


def test_no_protocol_is_refused(image: Path) -> None:
    with pytest.raises(InputError, match="at least one protocol of crops_only, direct, full_and_crops"):
        ask(make_model(), image, protocols=[])


def test_equal_rollouts_are_refused_before_anything_runs(image: Path) -> None:
    model = make_model()
    with pytest.raises(InputError, match="temperature above 0 for 2 rollouts"):
        ask(model, image, rollouts=2)
    assert model.calls == []


@pytest.mark.parametrize(
    ("choices", "answer", "letter"),
    [
        (("red", "blue"), "B", "B"),
        (("red", "blue"), "b", "B"),
        (("red", "blue"), "(a)", "A"),
        (("red", "blue"), " Blue ", "B"),
        ((" red ", "blue"), "red", "A"),
        (("A", "B"), "a", "A"),  # letter and text agree
        (("B", "A"), "(A)", "A"),
        (("B", "A"), "(B)", "B"),
        (("red", "blue"), None, None),
        (("red", "blue"), "  ", None),
        ((), "Seven", "Seven"),
        ((), "", None),
    ],
)
def test_an_answer_is_a_letter_or_a_text(choices: tuple[str, ...], answer: str | None, letter: str | None) -> None:
    assert build_sample("a/b.png", "Which?", choices, answer).answer == letter


@pytest.mark.parametrize(
    ("question", "choices", "answer", "message"),
    [
        ("", (), None, "expected a question, got empty text"),
        (" \n ", (), None, "expected a question, got empty text"),
        ("\ud800", (), None, "expected Unicode text"),
        ("Which?", ("red", "\udcff"), None, "expected Unicode text"),
        ("Which?", ("red",), None, "expected no choices or 2 to 26 of them, got 1"),
        ("Which?", tuple("x" * i for i in range(1, 29)), None, "got 28"),
        ("Which?", ("red", "  "), None, "expected every choice to have text"),
        ("Which?", ("red", "blue"), "green", r"expected the answer to be one of \(A\) red, \(B\) blue, got 'green'"),
        ("Which?", ("red", "blue"), "C", "got 'C'"),
        ("Which?", ("B", "A"), "A", r"'A' matches A and B; write the letter in parentheses"),
        ("Which?", ("red", "red"), "red", "matches A and B"),
    ],
)
def test_what_cannot_be_asked_is_reported_in_one_sentence(
    question: str, choices: tuple[str, ...], answer: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_sample("a.png", question, choices, answer)


def test_a_file_name_that_is_no_utf8_can_be_asked_about(image: Path) -> None:
    named = image.rename(image.with_name("caf\udce9.png"))  # the byte E9, as the file system hands it out
    trace = ask(make_model(), named)
    assert trace.image.name == "caf?.png"
    assert Trace.model_validate_json(trace.model_dump_json()) == trace

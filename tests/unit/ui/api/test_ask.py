import hashlib
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from hart_studio.errors import ImageError, InputError, ModelError
from hart_studio.image_domains import NEEDLE, embed_domain
from hart_studio.imaging import ImageLimits, SourceImage
from hart_studio.models.catalog import BUILT_IN_MODEL
from hart_studio.models.families import FAMILIES
from hart_studio.records import MAX_QUESTION_CHARS, Box
from hart_studio.runs.config import RunConfig
from hart_studio.runs.writer import RunWriter, create_run
from hart_studio.ui.api.ask import BUILT_IN, BUILT_IN_HART, AskService, default_comparison_model, read_form
from hart_studio.ui.security.model_allowlist import ModelAllowlist, offered_models
from tests.fakes import ScriptedModel
from tests.images import encoded

BOX = '[{"bbox_2d": [250, 500, 375, 750], "label": "sign"}]'


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "street.png"
    drawn = Image.new("RGB", (1600, 900), (40, 60, 80))
    drawn.paste((255, 0, 200), (400, 450, 600, 675))
    drawn.save(path)
    return path


@pytest.fixture
def loads():
    return []


@pytest.fixture
def service(tmp_path, loads):
    def load(name):
        loads.append(name)
        return ScriptedModel(
            name=name, grounding=BOX, crops_only="\\boxed{A}", direct=lambda _: "\\boxed{B}", full_and_crops="A"
        )

    return AskService(tmp_path / "work", load)


def quiet(fraction, stage):
    pass


def test_a_form_is_tidied(image):
    form = read_form(image, " Which? ", "five\n\n six \n", "B", ["direct", "crops_only"], 1.0, padding=0.25)
    assert form.choices == ("five", "six")
    assert form.protocols == ("crops_only", "direct")
    assert form.rollouts == 1
    assert form.settings.padding == 0.25


def test_what_is_left_out_means_all_protocols_and_the_models_own_budget(image):
    form = read_form(image, "Which?")
    assert form.protocols == ("crops_only", "direct", "full_and_crops")
    assert form.settings.overview_max_pixels is None
    assert form.choices == ()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"image": None}, "No image"),
        ({"question": ""}, "No question"),
        ({"question": None}, "No question"),
        ({"question": "\n\t "}, "No question"),
        ({"choices": "only one"}, "2 to 26"),
        ({"choices": "\n".join(str(number) for number in range(27))}, "got 27"),
        ({"choices": ["a", "b"], "answer": "z"}, "'z'"),
        ({"protocols": []}, "at least one"),
        ({"protocols": ["guess"]}, "got guess"),
        ({"padding": 7}, "padding"),
        ({"padding": "wide"}, "padding"),
        ({"max_boxes": 0}, "max_boxes"),
        ({"max_boxes": 2.5}, "max_boxes"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"overview_max_pixels": 5}, "overview_max_pixels"),
        ({"rollouts": 0}, "at least 1"),
        ({"rollouts": 4}, "temperature above 0"),
    ],
)
def test_a_form_that_cannot_be_asked_is_refused(image, changes, text):
    with pytest.raises(InputError, match=text):
        read_form(**{"image": image, "question": "Which?", **changes})


def test_a_image_is_shown_by_copies_and_kept_as_it_is(service, image):
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    scene = service.open_image(image)
    assert (scene.width, scene.height, scene.name) == (1600, 900, "street.png")
    assert (scene.preview.width, scene.detail.width) == (1600, 1600)
    assert hashlib.sha256(image.read_bytes()).hexdigest() == before
    assert service.folder in scene.preview.path.parents


def test_copies_of_a_large_image_are_limited(service, tmp_path):
    path = tmp_path / "tall.jpg"
    Image.new("RGB", (1000, 6000)).save(path)
    scene = service.open_image(path)
    with Image.open(scene.preview.path) as preview, Image.open(scene.detail.path) as detail:
        assert (preview.height, detail.height) == (2048, 4096)
        assert (preview.width, detail.width) == (pytest.approx(2048 / 6, abs=1), pytest.approx(4096 / 6, abs=1))
        assert (scene.preview.width, scene.detail.width) == (preview.width, detail.width)
    assert (scene.width, scene.height) == (1000, 6000)


def test_copies_are_made_once_and_again_when_the_file_changes(service, image):
    first = service.open_image(image)
    stamp = first.detail.path.stat().st_mtime_ns
    assert service.open_image(image) == first
    assert first.detail.path.stat().st_mtime_ns == stamp
    Image.new("RGB", (40, 30)).save(image)
    again = service.open_image(image)
    assert again.preview.path != first.preview.path
    assert (again.width, again.height) == (40, 30)


def test_a_swept_copy_is_made_again(service, image):
    service.open_image(image).preview.path.unlink()
    assert service.open_image(image).preview.path.exists()


def test_no_image_is_an_image_error(service, tmp_path):
    (tmp_path / "notes.png").write_text("words", "utf-8")
    with pytest.raises(ImageError, match=r"notes\.png"):
        service.open_image(tmp_path / "notes.png")


def test_a_question_is_answered_with_everything_to_show(service, image):
    stages = []
    form = read_form(image, "Which number?", "five\nsix", "five")
    reply = service.ask(form, "scripted", lambda fraction, stage: stages.append((fraction, stage)))
    assert [box.xyxy for box in reply.scene.boxes] == [(400, 450, 600, 675)]
    assert reply.scene.boxes[0].label == "sign"
    assert [crop.area.xyxy for crop in reply.shown.crops] == [(400, 450, 600, 675)]
    with Image.open(reply.shown.crops[0].path) as crop:
        assert crop.size == (200, 225)
        assert crop.getextrema() == ((255, 255), (0, 0), (200, 200))
    with Image.open(reply.shown.overview.path) as overview:
        assert overview.size == (reply.shown.overview.width, reply.shown.overview.height)
    assert [card.verdict for card in reply.board.cards] == ["unproven", "wrong", "unproven"], "one of two options"
    assert reply.board.warnings == () and reply.summary["warnings"] == []
    assert reply.summary["model"] == "scripted"
    with zipfile.ZipFile(reply.archive) as archive:
        assert sorted(archive.namelist()) == ["images/crop_1.png", "images/overview.png", "trace.json"]
    assert [fraction for fraction, _ in stages] == sorted(fraction for fraction, _ in stages)
    assert stages[0][1] == "Loading scripted"
    assert stages[-1] == (1.0, "Done")


def test_the_built_in_model_goes_by_its_short_name(service, image, loads):
    reply = service.ask(read_form(image, "Which?"), f" {BUILT_IN} ", quiet)
    assert loads == [BUILT_IN_MODEL]
    assert reply.board.model == reply.summary["model"] == BUILT_IN


def test_answers_of_a_model_that_was_not_made_for_the_image_come_with_a_warning(tmp_path, image):
    def load(name):
        return ScriptedModel(name=name, grounding=BOX, direct="x", crops_only="x", full_and_crops="x")

    service = AskService(tmp_path / "work", load, ModelAllowlist(("built-in", "org/general")))
    form = read_form(image, "Which?")
    for name, count in (("built-in", 1), ("org/general", 0)):
        warnings = service.find_warnings(image, [name, name])
        assert len(warnings) == count
        assert all(
            "trained only on synthetic needle scenes; its answers on this image are not meaningful" in text
            for text in warnings
        )
        reply = service.ask(form, name, quiet)
        assert list(reply.board.warnings) == reply.summary["warnings"] == warnings
        assert service.answer(form, name, quiet)["warnings"] == warnings
        assert list(service.locate(form, name, quiet).warnings) == warnings
        assert list(service.verify(form, [reply.scene.boxes[0]], name, quiet).warnings) == warnings
    assert service.find_warnings(image, [BUILT_IN_MODEL]) == [], "nothing is read of what may not be opened"
    image.write_bytes(embed_domain(encoded(Image.new("RGB", (80, 60)), "JPEG"), NEEDLE))
    assert service.find_warnings(image, ["built-in"]) == service.answer(form, "built-in", quiet)["warnings"] == []


def test_two_models_stay_in_memory_and_the_least_used_one_goes(service, image, loads):
    form = read_form(image, "Which?")
    for name in ["a", "b", "a", "c", "a", "b"]:
        service.ask(form, name, quiet)
    assert loads == ["a", "b", "c", "b"]


def test_a_model_that_did_not_load_is_tried_again(tmp_path, image):
    answers = iter([ModelError("the hub cannot be reached"), ScriptedModel(grounding=BOX, direct="x")])

    def load(name):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    service = AskService(tmp_path / "work", load)
    form = read_form(image, "Which?", protocols=["direct"])
    with pytest.raises(ModelError):
        service.ask(form, "a", quiet)
    assert service.ask(form, "a", quiet).summary["protocols"]["direct"]["text"] == "x"


def test_a_second_question_waits_and_says_so(tmp_path, image):
    entered, leave = threading.Event(), threading.Event()

    def load(name):
        entered.set()
        assert leave.wait(60)
        return ScriptedModel(direct=lambda _: "x")

    service = AskService(tmp_path / "work", load)
    form = read_form(image, "Which?", protocols=["direct"])
    first = threading.Thread(target=service.ask, args=(form, "a", quiet))
    first.start()
    assert entered.wait(60)
    stages, before = [], image.stat()
    time.sleep(0.02)

    def note(fraction, stage):
        if not stages:
            now = image.stat()
            assert now.st_ctime_ns > before.st_ctime_ns, "kept from the sweep of the cache while it waits"
            assert now.st_mtime_ns == before.st_mtime_ns
        stages.append(stage)
        leave.set()

    service.ask(form, "a", note)
    first.join(60)
    assert stages[0] == "Queued: 1 question ahead"
    assert not any(stage.startswith("Loading") for stage in stages)


def test_the_lists_offer_the_default_first_and_each_name_once():
    models = offered_models("my/model")
    assert models[0] == ("my/model", "my/model")
    assert ("Built-in (hart-tiny-base)", BUILT_IN) in models
    assert ("Built-in, trained with HART (hart-tiny)", BUILT_IN_HART) in models
    assert len(models) == len(FAMILIES) + 3
    assert offered_models(BUILT_IN)[0][1] == BUILT_IN
    assert len({name for _, name in offered_models(BUILT_IN)}) == len(FAMILIES) + 2
    assert (default_comparison_model(BUILT_IN), default_comparison_model("my/model")) == (BUILT_IN_HART, "")


def test_a_checkpoint_is_found_with_the_model_that_its_run_began_with(tmp_path):
    root = tmp_path / "runs"
    layout = create_run(root, "training", RunConfig.model_validate({"model": {"id": "my/base"}}), "sft", total=2)
    with pytest.raises(InputError, match="complete checkpoint"):
        AskService.find_checkpoint_model(root, layout.run_id, None)
    with RunWriter(layout, total=2) as run:
        for step in (1, 2):
            with run.saving_checkpoint(step, "sft") as folder:
                (folder / "weights").write_text("x")
    assert AskService.find_checkpoint_model(root, layout.run_id, None) == (str(layout.checkpoint_of(2)), "my/base")
    assert AskService.find_checkpoint_model(root, layout.run_id, 1)[0] == str(layout.checkpoint_of(1))
    for run_id, step in ((layout.run_id, 3), ("../x", None)):
        with pytest.raises(InputError):
            AskService.find_checkpoint_model(root, run_id, step)


def test_a_program_gets_the_same_answer_and_no_file_is_written(service, image):
    form = read_form(image, "Which number?", "five\nsix", "five")
    before = sorted(service.folder.rglob("*"))
    response = service.answer(form, " scripted ", quiet)
    assert sorted(service.folder.rglob("*")) == before
    reply = service.ask(form, "scripted", quiet)
    assert response == reply.summary


def test_locate_is_one_turn_and_decodes_no_original(service, image, monkeypatch):
    form = read_form(image, "Which number?", "five\nsix")
    model = service._get_model("scripted", quiet)
    monkeypatch.setattr("hart_studio.imaging.SourceImage.start_decoding", lambda self: pytest.fail("decoded ahead"))
    monkeypatch.setattr("hart_studio.imaging.SourceImage.crops", lambda self, boxes: pytest.fail("cut"))
    response = service.locate(form, "scripted", quiet)
    assert model.kinds() == [["grounding"]]
    assert [(box.x_min, box.y_max, box.label) for box in response.boxes] == [(400, 675, "sign")]
    assert (response.outcome, response.image.width, response.model) == ("ok", 1600, "scripted")


def test_boxes_of_a_program_are_cut_to_the_image_and_asked_about(service, image):
    form = read_form(image, "Which number?", "five\nsix", "five")
    response = service.verify(form, [Box.from_xyxy((400, 450, 9000, 675))], "scripted", quiet)
    assert (response.crops_answer, response.full_answer, response.sufficient) == ("A", "B", True)
    assert response.boxes[0].x_max == 1600
    assert response.cautions == ("touches_border",)
    with pytest.raises(InputError, match=r"Box 1 .* is outside"):
        service.verify(form, [Box.from_xyxy((1600, 0, 1700, 10))], "scripted", quiet)


@pytest.mark.parametrize("call", ["answer", "locate", "verify"])
def test_what_is_no_image_is_refused_by_every_call(service, tmp_path, call):
    (tmp_path / "notes.png").write_text("words", "utf-8")
    form = read_form(tmp_path / "notes.png", "What?")
    boxes = [[Box.from_xyxy((0, 0, 9, 9))]] if call == "verify" else []
    with pytest.raises(ImageError, match=r"notes\.png"):
        getattr(service, call)(form, *boxes, "scripted", quiet)


@pytest.mark.parametrize("call", ["open_image", "ask", "answer", "locate", "verify"])
def test_a_service_has_bounds_of_its_own_on_images_and_hands_them_on(service, image, loads, tmp_path, call):
    def use(limits):
        bounded = AskService(tmp_path / "bounded", service._load, limits=limits).with_folder(tmp_path / "visitor")
        if call == "open_image":
            return bounded.open_image(image)
        boxes = [[Box.from_xyxy((0, 0, 900, 900))]] if call == "verify" else []
        return getattr(bounded, call)(read_form(image, "What?"), *boxes, "scripted", quiet)

    with pytest.raises(ImageError, match="at most 1,439,999 pixels, got 1,600 x 900; scale the image down"):
        use(ImageLimits(max_pixels=1600 * 900 - 1))
    assert loads == [], "no model is loaded for it"
    assert use(ImageLimits(max_pixels=1600 * 900))


def test_originals_that_come_at_once_are_not_decoded_at_once(service, tmp_path, monkeypatch):
    decoded, at_once, most = SourceImage.full, [], []

    def decode(self):
        at_once.append(self)
        most.append(len(at_once))
        time.sleep(0.05)
        try:
            return decoded(self)
        finally:
            at_once.remove(self)

    monkeypatch.setattr(SourceImage, "full", decode)
    paths = [tmp_path / f"{number}.png" for number in range(8)]
    for path in paths:
        Image.new("RGB", (30, 20)).save(path)
    with ThreadPoolExecutor(8) as threads:
        assert {scene.width for scene in threads.map(service.open_image, paths)} == {30}
    assert len(most) >= 8 and max(most) <= 2


@pytest.mark.parametrize(
    "texts",
    [
        {"question": "q" * (MAX_QUESTION_CHARS + 1)},
        {"question": "q", "choices": ["a", "b" * MAX_QUESTION_CHARS]},
        {"question": "q", "choices": "a\n" * MAX_QUESTION_CHARS},
        {"question": "q", "answer": "a" * MAX_QUESTION_CHARS},
    ],
)
def test_a_question_has_a_greatest_length_wherever_it_comes_from(image, texts):
    with pytest.raises(InputError, match="at most 20,000 are allowed"):
        read_form(image, **texts)


class CountingModel(ScriptedModel):
    """Reads 100 tokens, one a word."""

    context_tokens = 100

    def count_tokens(self, text):
        return len(text.split())


def test_a_question_above_the_context_gets_no_turn(tmp_path, image):
    model = CountingModel(name="m", grounding=BOX, crops_only="A", direct="B", full_and_crops="A")
    service = AskService(tmp_path / "work", lambda name: model)
    long, fitting = read_form(image, "word " * 400), read_form(image, "word " * 90)
    for ask in (service.answer, service.locate, service.ask):
        with pytest.raises(InputError, match="400 tokens with choices; the context of the model has 100"):
            ask(long, "m", quiet)
    assert not model.calls, "nothing was computed, also not while the model was loaded for it"
    service.answer(fitting, "m", quiet)
    with service._model_queue.turn(lambda text: None), pytest.raises(InputError, match="400 tokens"):
        service.answer(long, "m", quiet)  # someone else's turn is not waited for

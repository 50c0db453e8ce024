import pytest

from hart_studio.errors import DataError
from hart_studio.records import Box, Sample
from hart_studio.runs.config import RunConfig
from hart_studio.scoring import score_answer
from hart_studio.training.sft import check_sft_samples, target_text


@pytest.mark.parametrize(
    ("choices", "answer", "text"),
    [(("red", "green"), "B", "green \\boxed{B}"), ((), "17", "\\boxed{17}"), (("a", "b", "c"), "A", "a \\boxed{A}")],
)
def test_what_is_taught_is_read_back_as_right(choices: tuple[str, ...], answer: str, text: str) -> None:
    sample = Sample(id="s", image="p.png", question="Which?", choices=choices, answer=answer)
    assert target_text(sample) == text
    assert score_answer(text, choices, answer).value == 1.0


def test_a_model_that_names_no_letters_is_taught_the_words() -> None:
    sample = Sample(id="s", image="p.png", question="Which?", choices=("red", "green"), answer="B")
    assert target_text(sample, "option_text") == "green"
    assert score_answer("green", sample.choices, "B").value == 1.0


def test_an_unknown_answer_cannot_be_taught() -> None:
    with pytest.raises(ValueError, match="The sample s has no answer"):
        target_text(Sample(id="s", image="p.png", question="Which?"))


def test_boxes_can_be_taught_only_where_there_are_some() -> None:
    plain = Sample(id="s", image="p.png", question="Which?", answer="red")
    labeled = plain.model_copy(update={"label_boxes": (Box.from_xyxy((0, 0, 9, 9)),)})
    grounded = RunConfig.model_validate({"method": {"stages": "sft", "sft_target": "grounded"}})
    check_sft_samples([plain], RunConfig())
    check_sft_samples([plain, labeled], grounded)
    with pytest.raises(DataError, match=r"method\.sft_target=grounded needs samples with label_boxes"):
        check_sft_samples([plain], grounded)
    with pytest.raises(DataError, match=r"Raise data\.sft_samples"):
        check_sft_samples([], RunConfig())

import pytest

from hart_studio.records import Sample
from hart_studio.scoring import score_answer
from hart_studio.training.sft import target_text


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
    assert target_text(sample, "words") == "green"
    assert score_answer("green", sample.choices, "B").value == 1.0


def test_an_unknown_answer_cannot_be_taught() -> None:
    with pytest.raises(ValueError, match="expected a known answer of s"):
        target_text(Sample(id="s", image="p.png", question="Which?"))

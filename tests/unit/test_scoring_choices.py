"""Letters in model text: a table of malformed strings, and the rules. The reward depends on this file."""

from __future__ import annotations

import pytest

from hart_studio.errors import InputError
from hart_studio.extraction import MAX_TEXT_CHARS, NOT_FOUND, Extraction, extract_choice

COLORS = ("blue", "green", "red", "a dog")
"""Options A to D of the tables."""

# (text, letter, rule): read with the options of COLORS
CHOICE = [
    ("green \\boxed{B}", "B", "boxed"),  # what the built-in model writes
    ("\\boxed{C}", "C", "boxed"),  # plain
    ("\\boxed{c}", "C", "boxed"),  # lower case
    ("\\boxed{ (C) }", "C", "boxed"),  # parentheses and spaces
    ("\\boxed{C.}", "C", "boxed"),  # dot
    ("\\boxed{\\text{C}}", "C", "boxed"),  # \text
    ("$\\boxed{\\mathrm{(c).}}$", "C", "boxed"),  # \mathrm, everything at once
    ("\\boxed{\\mathbf{\\text{C}}}", "C", "boxed"),  # nested styles
    ("\\boxed{{C}}", "C", "boxed"),  # doubled braces
    ("\\boxed{\\boxed{C}}", "C", "boxed"),  # doubled box
    ("\\boxed {C}", "C", "boxed"),  # space before the brace
    ("\\\\boxed{C}", "C", "boxed"),  # escaped once too often
    ("boxed{C}", "C", "boxed"),  # backslash lost
    ("\\boxed{C. red}", "C", "boxed"),  # the full option
    ("\\boxed{(C) red}", "C", "boxed"),  # the full option, parentheses
    ("\\boxed{C. crimson}", "C", "boxed"),  # letter with a paraphrase
    ("\\boxed{Option C}", "C", "boxed"),  # with the word
    ("\\boxed{red}", "C", "boxed"),  # the option's text alone
    ("\\boxed{The answer is C}", "C", "boxed"),  # a sentence in the box
    ("\\boxed{A}, no: \\boxed{C}", "C", "boxed"),  # the last counts
    ("Put the letter in \\boxed{}. \\boxed{C}", "C", "boxed"),  # the prompt echoed before
    ("\\boxed{C} as asked: letter in \\boxed{}", "C", "boxed"),  # the prompt echoed after
    ("The answer is A. \\boxed{C}", "C", "boxed"),  # the box is stronger
    ("<answer>A</answer> \\boxed{C}", "C", "boxed"),  # stronger than the tag too
    ("**\\boxed{C}**", "C", "boxed"),  # Markdown
    ("\\boxed{Ｃ}", "C", "boxed"),  # full-width letter
    ("\\boxed{E}", None, "none"),  # not a letter of this question
    ("\\boxed{42}", None, "none"),  # not an answer
    ("The answer is C. \\boxed{42}", None, "none"),  # an unreadable box is not overruled by a weaker rule
    ("\\boxed{A, B}", None, "none"),  # two in one box
    ("\\boxed{A or B}", None, "none"),  # two in one box, in words
    ("\\boxed{A. green}", None, "none"),  # letter and text contradict each other
    ("\\boxed{A. blue B. green}", None, "none"),  # the options copied
    ("\\boxed{not C}", None, "none"),  # a denial
    ("\\boxed{a cat}", None, "none"),  # an article in the box
    ("\\boxed{C", None, "none"),  # cut off: may be "Cat"
    ("\\boxed{}", None, "none"),  # empty
    ("\\boxed{С}", None, "none"),  # Cyrillic Es is not a Latin letter
    ("<answer>C</answer>", "C", "answer_tag"),  # plain
    ("<ANSWER> (c) </ANSWER>", "C", "answer_tag"),  # case and spaces
    ("<answer>\nC. red\n</answer>", "C", "answer_tag"),  # several lines
    ("<answer>A</answer> wait <answer>C</answer>", "C", "answer_tag"),  # the last counts
    ("<answer>A <answer>C</answer>", "C", "answer_tag"),  # opened twice
    ("The answer is A. <answer>C</answer>", "C", "answer_tag"),  # stronger than the sentence
    ("<answer>The answer is C</answer>", "C", "answer_tag"),  # a sentence in the tag
    ("<answer>unsure</answer> The answer is C", None, "none"),  # an unreadable tag is not overruled
    ("<answer>C", "C", "answer_tag"),  # not closed
    ("<answer>Ca", None, "none"),  # cut off
    ("<think>Perhaps \\boxed{A}</think>\nC", "C", "letter"),  # reasoning is no answer
    ("<think>The answer is A</think> Hard to say.", None, "none"),  # nothing after the reasoning
    ("Based on the sign, the answer is (C)", "C", "statement"),  # "B" of "Based" is no answer
    ("Because the answer is C", "C", "statement"),  # nor is "B" of "Because"
    ("The answer is C.", "C", "statement"),  # plain
    ("the answer is c", "C", "statement"),  # lower case
    ("The best answer is:\nC", "C", "statement"),  # the prompt of MME-RealWorld continued
    ("The correct option is C", "C", "statement"),  # option
    ("The best choice: (C)", "C", "statement"),  # choice
    ("Final answer: C", "C", "statement"),  # colon
    ("**Final Answer:** **C**", "C", "statement"),  # Markdown
    ("ANSWER: C", "C", "statement"),  # capitals
    ("Answer:C", "C", "statement"),  # no space
    ("Answer = C", "C", "statement"),  # equals sign
    ("Option: C", "C", "statement"),  # at the start of a line
    ('{"answer": "C"}', "C", "statement"),  # JSON
    ("{'answer': 'C'}", "C", "statement"),  # JSON of a kind
    ("The answer is option C", "C", "statement"),  # with the word
    ("The answer is the letter C.", "C", "statement"),  # with the other word
    ("The answer should be [C]", "C", "statement"),  # verb
    ("The answer to the question is C.", "C", "statement"),  # of what
    ("The correct answer choice is C", "C", "statement"),  # noun pair
    ("The answer is C, not A.", "C", "statement"),  # with a contrast
    ("The answer is C because it glows", "C", "statement"),  # reason without a comma
    ("The answer is A because it is blue", "A", "statement"),  # A before a word that no article precedes
    ("The answer is C. A red sign is visible.", "C", "statement"),  # the next sentence begins with an article
    ("The answer is C: red", "C", "statement"),  # with the text
    ("The answer is C red.", "C", "statement"),  # with the text, no mark
    ("The answer is $C$.", "C", "statement"),  # LaTeX
    ("The answer is \\(C\\).", "C", "statement"),  # LaTeX inline
    ('The answer is "C".', "C", "statement"),  # quotes
    ("The answer is “C”.", "C", "statement"),  # curly quotes
    ("Ｔｈｅ ａｎｓｗｅｒ ｉｓ（Ｃ）", "C", "statement"),  # full width
    ("The answer is Ⓒ", "C", "statement"),  # circled letter
    ("The answer is A. No, the answer is C.", "C", "statement"),  # the last counts
    ("No\nThe answer is C", "C", "statement"),  # a denial of something else
    ("If the answer is A, it must be lit. It is not. The answer is C.", "C", "statement"),  # a supposition before
    ("The answer is C. I don't think the answer is A.", "C", "statement"),  # a denial after
    ("My wrong answer is A, the right answer is C.", "C", "statement"),  # wrong and right
    ("The answer is a dog", "D", "statement"),  # an article, and option D says so
    ("The answer is red.", "C", "statement"),  # the option's text
    ("The answer is clear. It glows.", None, "none"),  # prose
    ("The answer is C. The answer is clear.", "C", "statement"),  # prose after the answer
    ("The answer is a cat", None, "none"),  # an article, and no option
    ("The answer is A cat", None, "none"),  # capital article
    ("the answer is a blue one", None, "none"),  # contains an option: no guess
    ("The answer is not (A)", None, "none"),  # denied
    ("The answer isn't A", None, "none"),  # denied
    ("A is not the correct answer: B", None, "none"),  # denied before
    ("It is unlikely the answer is A", None, "none"),  # doubted
    ("The wrong answer is A", None, "none"),  # wrong
    ("Another option is A", None, "none"),  # a list of options
    ("One option is A", None, "none"),  # a list of options
    ("The answer is A or B", None, "none"),  # two
    ("The answer is (A) and (B)", None, "none"),  # two in parentheses
    ("Answer: A, C", None, "none"),  # two with a comma
    ("The answer is A/B", None, "none"),  # two with a slash
    ("The answer is either A or B", None, "none"),  # two, announced
    ("The answer is B. So it is A or C.\nAnswer: A or C", None, "none"),  # the last statement is torn
    ("Is the answer A?", None, "none"),  # a question
    ("The answer is A?", None, "none"),  # a question
    ("The answer is A.M.", None, "none"),  # an abbreviation
    ("The answer is B's sign", None, "none"),  # a genitive
    ("The answer is A-frame", None, "none"),  # a compound
    ("The answer is E", None, "none"),  # not a letter of this question
    ("The answer is Dog-like", None, "none"),  # a word that begins with a letter
    ("C", "C", "letter"),  # the letter
    (" c \n", "C", "letter"),  # blanks
    ("(C)", "C", "letter"),  # parentheses
    ("[C]", "C", "letter"),  # brackets
    ("（Ｃ）", "C", "letter"),  # full-width brackets
    ("C.", "C", "letter"),  # dot
    ("C)", "C", "letter"),  # half a parenthesis
    ("C:", "C", "letter"),  # colon
    ("**C**", "C", "letter"),  # Markdown
    ("`C`", "C", "letter"),  # code
    ("```\nC\n```", "C", "letter"),  # fence
    ("Option C", "C", "letter"),  # with the word
    ("C. red", "C", "option"),  # letter and text
    ("(C) red.", "C", "option"),  # letter in parentheses and text
    ("C: Red", "C", "option"),  # colon, capital
    ("C red", "C", "option"),  # no mark
    ("red", "C", "option"),  # the text
    ("Red.", "C", "option"),  # the text as a sentence
    ("the red", "C", "option"),  # with an article
    ("A dog", "D", "option"),  # the text begins with an article
    ("D. dog", "D", "option"),  # article left out
    ("C. green", None, "none"),  # letter and text contradict each other
    ("A. green", None, "none"),  # the same, with a letter that is an article too
    ("A) a dog", None, "none"),  # the same again
    ("C. the lamp glows in this color", "C", "first_line"),  # letter and explanation
    ("A red sign", None, "none"),  # an article
    ("I think a dog", None, "none"),  # prose about an option
    ("It is red", None, "none"),  # contains an option: no guess
    ("red or green", None, "none"),  # two options
    ("Staring At the sign ... (C)", None, "none"),  # prose: never A, and not C either
    ("A. blue\nB. green\nC. red\nD. a dog", None, "none"),  # the options copied
    ("A B C D", None, "none"),  # letters copied
    ("Dog", "D", "option"),  # case
    ("Do", None, "none"),  # begins like D
    ("E", None, "none"),  # not a letter of this question
    ("", None, "none"),  # empty
    (" \n\t", None, "none"),  # blank
    ("...", None, "none"),  # punctuation
    ("I cannot answer that.", None, "none"),  # refusal
    ("\x00\ud800", None, "none"),  # NUL and a lone surrogate
]


@pytest.mark.parametrize(("text", "letter", "rule"), CHOICE)
def test_choice(text, letter, rule):
    assert extract_choice(text, "ABCD", COLORS) == Extraction(letter, rule)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("\\boxed{B}", "B"),  # letters need no texts
        ("C. red", "C"),  # form alone
        ("(C) red", "C"),  # form alone
        ("C red", None),  # no mark
        ("A dog", None),  # an article
        ("red", None),  # no text to compare with
        ("A. blue B. green", None),  # two marks
        ("A. one two three four five six seven eight nine ten eleven", "A"),  # explanation
    ],
)
def test_choice_without_option_texts(text, letter):
    assert extract_choice(text, "ABCD").value == letter


def test_letters_of_the_question_decide():
    assert extract_choice("The answer is (L)", "ABCDEFGHIJKL").value == "L"
    assert extract_choice("The answer is (L)", "ABCDE") == NOT_FOUND
    assert extract_choice("the answer is I think", "ABCDEFGHI") == NOT_FOUND  # "I" is a word before it is a letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),  # a letter is asked for, so a letter is read, although option B is called A
        ("F", "C"),  # no option has this letter, one has this text
        ("\\boxed{E}", "A"),  # the same in a box
        ("B. A", "B"),  # letter and text agree
        ("C. A", None),  # they do not
    ],
)
def test_options_that_are_letters_themselves(text, letter):
    assert extract_choice(text, "ABCD", ("E", "A", "F", "7")).value == letter


def test_options_that_resemble_a_letter_and_a_text():
    names = ("A. Adams", "C. Curie", "B. Franklin")
    assert extract_choice("B. Franklin", "ABC", names) == ("C", "option")
    assert extract_choice("\\boxed{C. Curie}", "ABC", names) == ("B", "boxed")
    assert extract_choice("\\boxed{C. B. Franklin}", "ABC", names) == ("C", "boxed")


def test_equal_options_cannot_be_distinguished():
    assert extract_choice("red", "ABC", ("red", "Red.", "blue")) == NOT_FOUND
    assert extract_choice("A dog", "ABC", ("dog", "cat", "a dog")) == NOT_FOUND


@pytest.mark.parametrize(
    "form", ["\\boxed{%s} \\boxed{%s}", "<answer>%s</answer><answer>%s</answer>", "answer: %s\nanswer: %s"]
)
def test_of_two_different_answers_the_last_counts(form):
    assert extract_choice(form % ("A", "C"), "ABCD", COLORS).value == "C"


@pytest.mark.parametrize("letters", ["", "abcd", "A1", "A B", "ÄÖ"])
def test_letters_are_checked(letters):
    with pytest.raises(InputError, match="expected option letters"):
        extract_choice("A", letters)


def test_only_the_end_of_a_long_text_is_read():
    assert extract_choice("\\boxed{A}" + "x" * MAX_TEXT_CHARS, "ABCD") == NOT_FOUND
    assert extract_choice("x " * MAX_TEXT_CHARS + "\\boxed{A}", "ABCD").value == "A"

"""Convert traces to values of the display components of the Ask tab."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

from hart_studio.formatting import format_percent
from hart_studio.pipeline.trace import SavedTrace, Trace
from hart_studio.pipeline.verification import describe_correct_answer, guess_probability
from hart_studio.prompts import OPTION_LETTERS
from hart_studio.records import PROTOCOLS, Protocol, Rollout
from hart_studio.ui.pages.answer_displays import (
    AnswerCard,
    AnswersPanel,
    Crop,
    ModelInputs,
    Overview,
    SelfCheckBadge,
    TranscriptTurn,
)

PROTOCOL_TITLES: Final[dict[Protocol, str]] = {
    "crops_only": "Crops only",
    "direct": "Full image",
    "full_and_crops": "Full image + crops",
}
"""Display names."""

_SUBTITLES: Final[dict[Protocol, str]] = {
    "crops_only": "The model sees only the crops, not the image.",
    "direct": "The downsampled full image, without crops.",
    "full_and_crops": "The downsampled full image and the crops.",
}

_WITHOUT_REGION: Final = {
    "no_box": "No region predicted.",
    "bad_box": "Invalid coordinates: no predicted box lies on the image.",
    "truncated": "Output truncated by the token limit before a region was predicted.",
}

STABLE: Final = 0.5
"""Shares and IoUs of at least this count as good. Project default."""

LARGE_AREA: Final = 0.5
"""Regions that cover at least this share of the image are marked as bad. Project default."""


def build_model_inputs(saved: SavedTrace) -> ModelInputs:
    """Model inputs: the overview at its real size and the crops."""
    trace = saved.trace
    seen_wh = next(turn.image_sizes_wh[0] for rollout in trace.protocols.values() for turn in rollout.turns)
    grounded = trace.grounded
    return ModelInputs(
        original_wh=(trace.image.width, trace.image.height),
        overview=Overview(saved.overview, *seen_wh),
        crops=tuple(Crop(path, area) for path, area in zip(saved.crops, trace.crops, strict=True)),
        no_crops_reason=_WITHOUT_REGION.get(grounded.outcome, "")
        if grounded
        else "No protocol with crops was selected.",
    )


def build_answers_panel(trace: Trace, model_name: str) -> AnswersPanel:
    """One card per protocol that ran, under the self-check badges."""
    return AnswersPanel(
        model=model_name,
        expected=_with_choice(trace, trace.answer) if trace.answer else "",
        checks=_checks(trace) if not trace.warnings else tuple(_to_neutral(check) for check in _checks(trace)),
        cards=tuple(_card(trace, trace.protocols[name]) for name in PROTOCOLS if name in trace.protocols),
        warnings=trace.warnings,
    )


def _card(trace: Trace, rollout: Rollout) -> AnswerCard:
    extracted = rollout.score.extracted
    verdict, verdict_text = _judge(trace, rollout)
    return AnswerCard(
        protocol=rollout.protocol,
        title=PROTOCOL_TITLES[rollout.protocol],
        subtitle=_SUBTITLES[rollout.protocol],
        letter=extracted if extracted and trace.choices else "",
        answer=_choice_text(trace, extracted) if extracted else "",
        verdict=verdict,
        verdict_text=verdict_text,
        note=_note(rollout),
        visual_tokens=rollout.visual_tokens,
        seconds=rollout.seconds,
        turns=tuple(
            TranscriptTurn(
                f"{'Grounding' if turn.kind == 'grounding' else 'Answer'} · {turn.visual_tokens:,} visual tokens",
                turn.text,
            )
            for turn in rollout.turns
        ),
        is_primary=rollout.protocol == "crops_only",
    )


def _judge(trace: Trace, rollout: Rollout) -> tuple[Literal["right", "unproven", "wrong", ""], str]:
    """Verdict of a card: ``right`` only if guessing is unlikely and the model supports the image domain."""
    if rollout.score.value is None:
        return "", ""
    if rollout.score.value != 1.0:
        return "wrong", "Wrong"
    is_from_crop = rollout.protocol == "crops_only" and not rollout.used_fallback
    found = describe_correct_answer(len(trace.choices), _necessity(trace), is_from_crop=is_from_crop)
    return ("right" if found.is_proof and not trace.warnings else "unproven"), found.text


def _necessity(trace: Trace) -> bool | None:
    return trace.verification.necessity if trace.verification else None


def _note(rollout: Rollout) -> str:
    """Caveat of an answer, or empty."""
    if rollout.outcome == "error":
        return rollout.error
    if rollout.protocol != "direct" and not rollout.crops:
        reason = _WITHOUT_REGION.get(rollout.outcome, "")
        return f"{reason} This answer is from the full image." if rollout.used_fallback else reason
    if rollout.outcome == "truncated":
        return "Answer truncated by the token limit."
    if rollout.score.extracted is None:
        return "No answer could be parsed from the output."
    return ""


def _checks(trace: Trace) -> tuple[SelfCheckBadge, ...]:
    """Badges of the measured self-checks; the necessity is always included, with a reason if unknown."""
    verification = trace.verification
    if verification is None:
        return (_check_necessity(None, trace),)
    count = len(verification.rollouts)
    checks: list[SelfCheckBadge] = []
    if verification.evidence == "known_answer" and verification.sufficiency is not None:
        checks.append(_check_sufficiency(verification.sufficiency, count, trace))
    checks.append(_check_necessity(verification.necessity, trace))
    if verification.consensus is not None:
        text = f"Mean IoU of the regions of {count} rollouts. High if the model predicts the same regions each time."
        checks.append(
            _share_check("Consistent regions", f"IoU {verification.consensus:.2f}", verification.consensus, text)
        )
    if verification.agreement is not None:
        value = f"{format_percent(verification.agreement, 0)} of {count}"
        text = f"Share of {count} crops-only rollouts that give the most frequent answer."
        checks.append(_share_check("Consistent answer", value, verification.agreement, text))
    if verification.area_share is not None:
        checks.append(_check_area(verification.area_share))
    return tuple(checks)


def _check_sufficiency(share: float, count: int, trace: Trace) -> SelfCheckBadge:
    value = f"{format_percent(share, 0)} of {count}" if count > 1 else ("yes" if share == 1.0 else "no")
    text = "Whether the crops alone, without the image, give the correct answer."
    check = _share_check("Sufficient", value, share, text)
    chance = guess_probability(len(trace.choices))
    if chance is not None and share > 0:
        guessing = format_percent(chance, 0)
        check = replace(
            check,
            value=f"{value} ({guessing} by random guess)",
            help=f"{text} A random guess is correct {guessing} of the time.",
        )
    right = describe_correct_answer(len(trace.choices), _necessity(trace), is_from_crop=True)
    return check if right.is_proof else _to_neutral(check)


def _to_neutral(check: SelfCheckBadge) -> SelfCheckBadge:
    """The check, neutral instead of good."""
    return replace(check, state="neutral") if check.state == "good" else check


def _check_necessity(is_necessary: bool | None, trace: Trace) -> SelfCheckBadge:
    text = (
        "Masking test: the regions are masked and the full image is asked again. "
        "Yes if that breaks the answer, no if the answer stays the same."
    )
    if is_necessary is None:
        value, reason = _explain_missing_checks(trace)
        return SelfCheckBadge("Region necessary (masking test)", value, "neutral", f"{text} {reason}")
    return SelfCheckBadge(
        "Region necessary (masking test)", "yes" if is_necessary else "no", "good" if is_necessary else "bad", text
    )


def _explain_missing_checks(trace: Trace) -> tuple[str, str]:
    """Why the necessity is unknown: a short value and a sentence with advice."""
    verification = trace.verification
    if verification is None or verification.full_image is None:
        crops, full = PROTOCOL_TITLES["crops_only"], PROTOCOL_TITLES["direct"]
        missing = crops if verification is None else full
        return f"not checked without {missing}", f"To check it, choose {crops} and {full} under Settings, Answer from."
    if verification.masked is None:
        return "unknown: no region", "No region was predicted, so nothing could be masked."
    if verification.full_image.score.extracted is None:
        return "unknown: no full-image answer", "No answer could be parsed from the full-image output."
    return (
        "inconclusive: full-image answer is wrong",
        "The full-image answer is already wrong, so masking shows nothing.",
    )


def _check_area(share: float) -> SelfCheckBadge:
    value = format_percent(share, 1 if share >= 0.01 else 2)
    text = (
        "Share of the image covered by the regions. Smaller is better evidence: "
        "a region that covers the whole image passes the other checks trivially."
    )
    return SelfCheckBadge("Area", f"{value} of the image", "bad" if share >= LARGE_AREA else "neutral", text)


def _share_check(name: str, value: str, share: float, text: str) -> SelfCheckBadge:
    return SelfCheckBadge(name, value, "good" if share >= STABLE else "bad", text)


def _choice_text(trace: Trace, answer: str) -> str:
    """The option behind a letter; the answer itself for an open question."""
    return trace.choices[OPTION_LETTERS.index(answer)] if trace.choices else answer


def _with_choice(trace: Trace, answer: str) -> str:
    return f"{answer} · {_choice_text(trace, answer)}" if trace.choices else answer

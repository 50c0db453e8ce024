from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hart_studio.errors import InputError
from hart_studio.evaluation.charts import Series
from hart_studio.evaluation.records import AnswerResult, SampleResult
from hart_studio.evaluation.statistics import Estimate, draw_resamples
from hart_studio.experiments.miniature.claims import claims_table, verdict
from hart_studio.experiments.miniature.report import check_report, join_seeds, write_report
from hart_studio.experiments.miniature.study_folder import StudyResults, VariantResults, find_cost
from hart_studio.experiments.miniature.tables import show_percent, table_1, table_6, table_7, table_8
from hart_studio.experiments.miniature.variants import FULL, VARIANTS, StudyVariant, base_config, select_variants
from hart_studio.records import Box, Score
from hart_studio.runs.events import Evaluated, Payload, RunEvent, Started, StepDone
from tests.unit.runs.conftest import PROVENANCE

QUESTIONS = 40


def question(index: int, right: bool, found: bool) -> SampleResult:
    gold = Box.from_xyxy((0, 0, 20, 10))
    away = Box.from_xyxy((50, 50, 70, 60))  # of the same size, 2 % of the image
    return SampleResult(
        sample_id=f"q{index}",
        category="detail" if index % 4 else "gist",
        image_wh=(100, 100),
        answers={"direct": judged(0.0), "crops_only": judged(float(right)), "full_and_crops": judged(1.0)},
        boxes=(gold if found else away,),
        gold_boxes=(gold,),
    )


def judged(value: float) -> AnswerResult:
    return AnswerResult(score=Score(value=value, extracted="A", expected="A", rule="boxed"), outcome="ok")


def records(variant: str, found: int, right: int, seeds: int = 1) -> VariantResults:
    """The first boxes and the first answers are right; each further seed finds four boxes fewer."""
    by_seed = {
        seed: [question(index, index < right, index < found - 4 * seed) for index in range(QUESTIONS)]
        for seed in range(seeds)
    }
    return VariantResults(VARIANTS[variant], by_seed)


def events(seconds: float) -> list[RunEvent]:
    def step(number: int, factor: float) -> StepDone:
        phases = {f"seconds_{name}": factor * seconds for name in ("rollout", "reference", "update")}
        return StepDone(stage="grpo", metrics={"reward": number / 10, "memory_mib": 100.0 * number, **phases})

    payloads: list[tuple[int, Payload]] = [
        (0, Started(attempt=1, provenance=PROVENANCE)),
        (0, Evaluated(metrics={"iog_above_0.3": 0.25}, samples=4, fingerprint="a1b2c3")),
        *((number, step(number, 9.0 if number == 1 else 1.0)) for number in (1, 2, 3)),
        (3, Evaluated(metrics={"iog_above_0.3": 0.75}, samples=4, fingerprint="a1b2c3")),
    ]
    now = datetime.now(UTC)
    return [RunEvent(seq=seq, at=now, step=step, payload=payload) for seq, (step, payload) in enumerate(payloads)]


@pytest.fixture
def results() -> StudyResults:
    measured = {
        "base": records("base", found=10, right=20),
        "ap_grpo_060": records("ap_grpo_060", found=34, right=34, seeds=2),
    }
    variants: list[StudyVariant] = list(select_variants(["ap_grpo_060", "grpo"]))
    kinds = [record.category for record in measured["base"].by_seed[0]]
    runs = {"ap_grpo_060": {0: events(1.0), 1: events(3.0)}, "grpo": {}, "base": {}}
    return StudyResults(variants, measured, runs, draw_resamples(QUESTIONS, 400), kinds)


def row_of(table: str, title: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {title} |")]
    return [variant.strip() for variant in line.strip("|").split("|")]


def test_grounding_stands_beside_its_spread_its_gain_and_the_area(results: StudyResults) -> None:
    base, trained = row_of(table_6(results), "base"), row_of(table_6(results), "AP-GRPO, k 0.6")
    assert base[1].startswith("25.0 [") and base[2] == "–"  # 10 of 40
    assert trained[1].startswith("80.0 ± 7.1 [")  # 34 and 30 of 40
    assert trained[2].startswith("+55.0 [")
    assert (trained[4][:4], trained[5], trained[6]) == ("80.0", "2.0 ± 0.0", "100.0 ± 0.0")
    assert trained[7:] == ["75.4", "77.7"]
    assert row_of(table_6(results), "GRPO") == ["GRPO", "not run", *["–"] * 5, "51.0", "66.1"]


def test_joint_counts_by_hand(results: StudyResults) -> None:
    # Base, crops only: 20 correct answers, the first 10 of them on a right box.
    base = row_of(table_1(results, "crops_only"), "base")
    assert base[1:6] == ["crops_only", "10", "10", "20", "0"]
    assert base[6].startswith("50.0 [") and base[7] == "21.5"
    own = table_1(results, None)
    assert row_of(own, "base")[1:7] == ["direct", "0", "0", "30", "10", "–"], "no right answer, no share"
    assert row_of(own, "AP-GRPO, k 0.6")[1] == "crops_only"
    assert row_of(own, "AP-GRPO, k 0.6")[2] == "2.0 ± 2.8"  # 0 and 4
    assert "1057 | 1838 | 466 | 681 | – | 36.5" in own
    assert row_of(own, "GRPO")[2] == "not run"


def test_accuracy_under_every_protocol_and_by_kind(results: StudyResults) -> None:
    base = row_of(table_7(results), "base")
    assert [variant.split(" ")[0] for variant in base[1:4]] == ["0.0", "50.0", "100.0"]
    assert base[4:] == ["46.4 / 35.9", "43.6 / 33.2", "42.3"]
    assert row_of(table_7(results, "detail"), "base")[1:] == ["0.0", "50.0", "100.0"]  # 15 of 30
    assert row_of(table_7(results, "none"), "base")[1:] == ["–"] * 3, "no question of that kind"


def test_the_first_step_does_not_count_for_the_cost(results: StudyResults) -> None:
    cost = find_cost(events(1.0))
    assert cost is not None
    assert (cost.total, cost.memory_mib) == (3.0, 300.0)
    assert find_cost([]) is None
    row = row_of(table_8(results), "AP-GRPO, k 0.6")
    assert row == ["AP-GRPO, k 0.6", "6.00 ± 4.24", "2.00", "2.00", "2.00", "300", "46.0", "18770"]
    assert row_of(table_8(results), "GRPO")[1] == "not run"


def test_verdicts_follow_from_the_interval(results: StudyResults) -> None:
    assert verdict(Estimate(0.2, 0.1, 0.3)) == "supported"
    assert verdict(Estimate(0.2, -0.1, 0.3)) == "inconclusive (interval includes 0)"
    assert verdict(Estimate(-0.2, -0.3, -0.1)) == "contradicted"
    assert verdict(None) == "not run"
    table = claims_table(results)
    better = row_of(table, "AP-GRPO grounds better than the base model (Table 6)")
    assert better[1] == "+25.2 (TreeBench), +11.7 (Visual-CoT)"
    assert better[2].startswith("+55.0 points [") and better[3] == "supported"
    assert row_of(table, "AP-GRPO grounds better than GRPO (Table 6)")[3] == "not run"
    informed = row_of(
        table, "the box is more informative about a crops-only answer than about a direct one, base model (Prop. 1)"
    )
    assert " bits [" in informed[2] and informed[3] == "supported"


def test_a_share_without_a_spread(results: StudyResults) -> None:
    assert show_percent(results.records["base"].is_grounded) == "25.0"


def test_the_report_has_every_table_and_its_charts(results: StudyResults, tmp_path: Path) -> None:
    path = tmp_path / "docs" / "miniature.md"
    config = base_config(FULL, "", tmp_path)
    write_report(path, results, config, "python -m hart_studio.experiments.miniature --seeds 2", jobs=2)
    text = path.read_text()
    for heading in ("Table 1", "Table 6", "Table 7", "Table 8", "Proposition 1", "Claims of the paper"):
        assert f"\n## {heading}" in text
    assert "python -m hart_studio.experiments.miniature --seeds 2" in text
    assert "2 seed(s), 3 models; 40 test questions (30 detail, 10 gist)" in text
    assert "not comparable" in text
    for name in ("reward", "grounding"):
        assert f"(miniature_{name}.svg)" in text
        chart = ElementTree.fromstring((path.parent / f"miniature_{name}.svg").read_text())  # noqa: S314 - made above
        assert "AP-GRPO, k 0.6" in "".join(chart.itertext())


def test_nothing_run_is_a_report_too(tmp_path: Path) -> None:
    variants = select_variants(["grpo_sft"])
    nothing = StudyResults(variants, {}, {}, draw_resamples(1, 1), [])
    write_report(tmp_path / "r.md", nothing, base_config(FULL, "", tmp_path), "x", jobs=1)
    text = (tmp_path / "r.md").read_text()
    assert "| GRPO + SFT | not run |" in text
    assert "| seen |" not in text


def test_only_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("# Mine")
    with pytest.raises(InputError, match="Cannot write a report of the study"):
        check_report(tmp_path / "mine.md")
    (tmp_path / "study.md").write_text("# The study in miniature\n")
    check_report(tmp_path / "study.md")
    check_report(tmp_path / "new.md")


def test_seeds_are_joined_step_by_step() -> None:
    line = join_seeds("x", [{1: 0.0, 2: 1.0, 3: 0.5}, {1: 1.0, 2: 0.0}])
    assert line.points == [(1, 0.5, 0.0, 1.0), (2, 0.5, 0.0, 1.0)], "only steps that both have"
    assert join_seeds("x", []) == Series("x", ())


def test_smoothing_is_a_mean_of_neighbors() -> None:
    line = join_seeds("x", [{1: 0.0, 2: 3.0, 3: 6.0}], window=3)
    assert [mean for _, mean, *_ in line.points] == pytest.approx([1.5, 3.0, 4.5])

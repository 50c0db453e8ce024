"""Golden test: all values of all tables from eight questions, computed by hand."""

from __future__ import annotations

import pytest

from hart_studio.evaluation.grounding_metrics import measure_grounding, share_by_iou
from hart_studio.evaluation.records import Evaluation, SampleResult
from hart_studio.evaluation.tables.accuracy import (
    level_table,
    table_2,
    table_3,
    table_4,
    table_categories,
    table_hr_bench,
)
from hart_studio.evaluation.tables.collection import (
    make_tables,
    table_comparison,
    table_extractors,
    table_rules,
    table_summary,
)
from hart_studio.evaluation.tables.grounding import WRONG_BOX, table_1, table_6, table_information, table_iou
from hart_studio.evaluation.tables.table import Cell, Number, Table
from tests.unit.evaluation.questions import answer_result, eight_questions, evaluation, question


def row(table: Table, *path: str) -> dict[str, Cell | float]:
    """The measured row with these texts, by column, as displayed."""
    (found,) = [each for each in table.rows if each.kind == "measured" and all(text in each.cells for text in path)]
    shown = [round(cell.value, cell.digits) if isinstance(cell, Number) else cell for cell in found.cells]
    return dict(zip(table.columns, shown, strict=True))


def published(table: Table, name: str, column: str) -> list[float]:
    index = table.columns.index(column)
    cells = [each.cells[index] for each in table.rows if each.kind == "published" and each.cells[0] == name]
    return [cell.value for cell in cells if isinstance(cell, Number)]


def test_table_1() -> None:
    found = row(table_1([evaluation()]), "crops_only")
    assert (found["n"], found["questions"], found["unscored"], found["fallbacks"]) == (6, 8, 2, 0)
    assert found["correct answer, wrong or no box"] == 2  # b, and e with one of its two boxes
    assert found["correct answer, correct box"] == 1  # a
    assert found["wrong answer, wrong box"] == 2  # d, g
    assert found["wrong answer, correct box"] == 1  # c
    assert found[WRONG_BOX] == 66.7
    assert (found["date"], found["benchmark"]) == ("2026-01-02", "treebench")
    assert row(table_1([evaluation()]), "direct")[WRONG_BOX] == 40.0  # b, g of a, b, c, f, g
    assert published(table_1([]), "Qwen2.5-VL-7B", WRONG_BOX) == [36.5, 21.5]


def test_proposition_1() -> None:
    found = row(table_information([evaluation()]))
    assert found["I(L; R), crops_only"] == 0.0
    assert found["I(L; R), full_and_crops"] is None
    assert (found["crops_only - direct"], found["n of the difference"]) == (-0.252, 6)


def test_table_3() -> None:
    found = row(table_3([evaluation()]), "crops_only")
    assert found["overall, %"] == 50.0  # a, b, e of a, b, c, d, e, g
    assert found["Perception, %"] == 60.0  # a, b, e of five
    assert found["Reasoning, %"] == 0.0  # g
    assert found["Perception: Attributes, %"] == 50.0
    assert found["Perception: OCR, %"] == 100.0
    assert found["Reasoning: Ordering, %"] == 0.0
    assert found["Perception: Material, %"] is None
    assert (found["n"], found["unscored"]) == (6, 2)
    (whole,) = [each for each in table_3([evaluation()]).rows if each.cells[1] == "crops_only"]
    assert str(whole.cells[4]) == "50.0 ± 20.4"  # sqrt(0.5 * 0.5 / 6)
    assert published(table_3([]), "HART-7B", "overall, %") == [43.7]


def test_categories_are_found_whatever_their_spelling() -> None:
    records = (question("a", answer_result(1.0), None, (), category="perception/autonomous driving"),)
    other = question("b", answer_result(0.0), None, (), category="Perception/Maps")
    found = row(table_2([evaluation((*records, other), benchmark="mme_realworld_lite")]), "crops_only")
    assert (found["Perception: AD, %"], found["Perception/Maps, %"], found["overall, %"]) == (100.0, 0.0, 50.0)
    assert not table_2([evaluation()]).is_measured


def hr_bench() -> Evaluation:
    rights = {("single", 0): 1, ("single", 1): 0, ("cross", 0): 1, ("cross", 1): 1}
    records = tuple(
        question(
            f"{kind}{cycle}",
            None,
            answer_result(float(right)),
            (),
            category=f"{kind}/cycle {cycle}",
            has_grounding_turn=False,
        )
        for (kind, cycle), right in rights.items()
    )
    return evaluation(records, benchmark="hr_bench_4k", protocols=("direct",))


def test_table_4() -> None:
    found = row(table_hr_bench([hr_bench()], "hr_bench_4k"), "direct")
    assert [found[name] for name in ("single, %", "cross, %", "average, %", "over all answers, %")] == [50, 100, 75, 75]
    assert (found["cycle 0"], found["cycle 1"]) == (100.0, 50.0)
    stars = tuple(
        question(f"{index}", answer_result(float(right)), None, (), category=category)
        for index, (category, right) in enumerate(
            [("math/geometry", True), ("math/geometry", True), ("math/numbers", False), ("logic/order", False)]
        )
    )
    star = evaluation(stars, benchmark="mmstar", protocols=("crops_only",))
    both = row(table_4([star, hr_bench()]), "mmstar")
    assert (both["accuracy, %"], both["macro over l2, %"]) == (50.0, 33.3)  # 2 of 4; mean of 1, 0 and 0
    assert row(table_4([star, hr_bench()]), "hr_bench_4k")["accuracy, %"] == 75.0
    by_kind = row(table_categories([star], "mmstar"))
    assert (by_kind["math, %"], by_kind["logic, %"], by_kind["overall, %"]) == (66.7, 0.0, 50.0)
    assert published(table_4([]), "HART-7B", "accuracy, %") == [80.6, 71.1, 71.9, 62.8]


def test_tables_5_and_7() -> None:
    other = evaluation(eight_questions()[:5], benchmark="mme_realworld_lite", date="2026-01-03", total=9)
    found = row(level_table([evaluation(), other], 7), "crops_only")
    assert found["treebench: perception, %"] == 60.0 and found["treebench: reasoning, %"] == 0.0
    assert found["mme_realworld_lite: perception, %"] == 60.0 and found["mme_realworld_lite: reasoning, %"] is None
    assert (found["treebench: n"], found["mme_realworld_lite: n"], found["date"]) == (6, 5, "2026-01-02, 2026-01-03")
    assert found["mme_realworld_lite: questions"] == "5 of 9, partial"
    assert published(level_table([], 5), "InternVL3-8B, HART", "treebench: perception, %") == [59.1]
    assert published(level_table([], 7), "SFT + AP-GRPO, k 0.60", "treebench: reasoning, %") == [32.4]


def test_no_run_is_dropped_from_tables_5_and_7() -> None:
    worse = evaluation(eight_questions()[3:4], run_id="20260102-030405-treebench-123456")
    other = evaluation(benchmark="mme_realworld_lite", run_id="20260102-030405-mme-654321")
    table = level_table([evaluation(), worse, other], 5)
    found = [row(table, name, "crops_only") for name in ("tiny abcdef", "tiny 123456", "tiny 654321")]
    assert [each["treebench: perception, %"] for each in found] == [60.0, 0.0, None]
    assert [each["mme_realworld_lite: n"] for each in found] == [None, None, 6]
    assert "not joined" in table.caption
    # Under a protocol that one run alone has, nothing is ambiguous.
    alone = evaluation(worse.records, run_id=worse.run_id, protocols=("crops_only",))
    joined = row(level_table([evaluation(), alone, other], 5), "direct")
    assert (joined["model"], joined["treebench: n"], joined["mme_realworld_lite: n"]) == ("tiny", 7, 7)


def test_table_6() -> None:
    found = row(table_6([evaluation()]))
    assert (found["n"], found["gold boxes"]) == (7, 8)  # h did not run; e has two
    assert found["gold boxes with IoG > 0.3, %"] == 50.0  # a, c, f and one of e
    assert found["IoG > 0.3 per question, %"] == 50.0  # (1 + 0 + 1 + 0 + 1/2 + 1 + 0) / 7
    assert found["questions with all gold boxes found, %"] == 42.9  # a, c, f of 7
    assert found["mean IoU, %"] == 21.9  # (0.5 + 0.25 + 0.5 + 0.5) / 8
    assert found["mean IoU per question, %"] == 21.4  # (0.5 + 0.25 + 0.25 + 0.5) / 7
    assert found["mean area share, %"] == 5.0  # (2 + 4 + 16 + 4 + 2 + 2) / 6: g has no box
    assert found["valid box, %"] == 85.7  # all but g
    assert published(table_6([]), "AP-GRPO", "gold boxes with IoG > 0.3, %") == [75.4, 77.7]
    assert measure_grounding([]) is None
    boxless = evaluation((question("g", answer_result(0.0), None, ()),))
    for table in (table_6([boxless]), table_summary([boxless])):
        found = next(dict(zip(table.columns, each.cells, strict=True)) for each in table.rows)
        assert found["mean area share, %"] is None, "no box is not a small one"
        assert found["valid box, %"] == Number(0.0)


def test_figure_3() -> None:
    shares = share_by_iou(eight_questions())
    # IoU 0.5 of a, e, f; 0.25 of c; 0 of b, d, g and e's second box.
    assert shares[0] == 1.0 and shares[1] == 0.5, "at 0.00 all count, above it those that overlap"
    assert (shares[5], shares[6], shares[10], shares[11]) == (4 / 8, 3 / 8, 3 / 8, 0.0)
    assert len(shares) == 20 and shares == sorted(shares, reverse=True)
    assert row(table_iou([evaluation()]))["IoU ≥ 0.30, %"] == 37.5
    assert share_by_iou([]) == []


def test_extractors_side_by_side() -> None:
    found = row(table_extractors([evaluation()]), "crops_only")
    assert (found["strict, %"], found["benchmark extractor, %"]) == (50.0, 50.0)
    assert (found["strict correct, benchmark wrong"], found["benchmark correct, strict wrong"]) == (1, 1)  # b; c
    rules = row(table_rules([evaluation()]), "crops_only", "none")
    assert (rules["n"], rules["answers"], rules["share, %"]) == (6, 3, 50.0)  # c, d, g; f has no score
    assert {each.cells[4] for each in table_rules([evaluation()]).rows if each.cells[2] == "crops_only"} == {6}


def test_the_error_of_hr_bench_is_over_questions_everywhere() -> None:
    # Two questions in four cycles, one always right and one never: 1/2, and over eight answers sqrt(1/4 / 8) = 17.7 %.
    records = tuple(
        question(
            f"{kind}{cycle}", None, answer_result(right, right), (), category=f"single/cycle {cycle}", question=kind
        )
        for kind, right in (("first", 1.0), ("second", 0.0))
        for cycle in range(4)
    )
    once = evaluation(records, benchmark="vstar", protocols=("direct",))
    again = evaluation(records, benchmark="hr_bench_8k", protocols=("direct",))
    for made in (table_summary, table_extractors):
        table = made([once, again])
        for head in [
            column for column in table.columns if column in ("accuracy, %", "strict, %", "benchmark extractor, %")
        ]:
            shown = [str(each.cells[table.columns.index(head)]) for each in table.rows]
            assert shown == ["50.0 ± 17.7", "50.0 ± 50.0"]
        assert "clustered by question" in table.caption


def test_differences() -> None:
    later = evaluation(
        tuple(question(name, answer_result(1.0), answer_result(1.0), ()) for name in "bcd"),
        title="later",
        model="later",
    )
    found = row(table_comparison([evaluation(), later]), "crops_only")
    assert (found["model"], found["baseline"], found["n"]) == ("later", "tiny", 3)
    assert found["difference, points"] == 66.7  # c and d of three
    boxes = row(table_comparison([evaluation(), later]), "grounding turn")
    assert boxes["difference, points"] == -33.3  # c's box
    changed = evaluation(
        (*later.records[:2], question("d", answer_result(1.0), answer_result(1.0), (), question="Another?")),
        title="changed",
        model="x",
    )
    parted = row(table_comparison([evaluation(), changed]), "crops_only")
    assert (parted["n"], parted["excluded"], parted["difference, points"]) == (2, 1, 50.0)  # c of b and c
    assert found["excluded"] == 0
    assert not table_comparison([evaluation()]).is_measured
    assert not table_comparison([evaluation(), evaluation(benchmark="vstar")]).is_measured


def test_the_summary() -> None:
    found = row(table_summary([evaluation()]), "direct")
    assert (found["accuracy, %"], found["benchmark extractor, %"]) == (71.4, 71.4)  # 5 of 7
    assert (found["P(wrong box | correct answer), %"], found["IoG > 0.3, %"]) == (40.0, 50.0)


def test_only_tables_with_something_measured_are_made() -> None:
    names = {table.name for table in make_tables([evaluation()])}
    assert {"summary", "table_1", "proposition_1", "table_3", "table_5", "table_6", "table_7", "figure_3"} <= names
    assert not {"table_2", "table_4", "comparison"} & names
    unscored: tuple[SampleResult, ...] = (question("h", None, None, (), error="gone"),)
    assert {table.name for table in make_tables([evaluation(unscored)])} == {"summary"}
    assert make_tables([]) == []


@pytest.mark.parametrize("table", make_tables([evaluation(), evaluation(title="b", model="b")]), ids=lambda t: t.name)
def test_every_row_says_who_how_when_and_over_how_many(table: Table) -> None:
    for each in table.rows:
        if each.kind == "measured":
            cells = dict(zip(table.columns, each.cells, strict=True))
            assert cells["model"] in ("tiny", "b")
            assert {"protocol", "protocols"} & set(cells)
            assert "2026-01-02" in str(cells.get("date") or cells.get("dates"))
            assert "n" in cells or "treebench: n" in cells

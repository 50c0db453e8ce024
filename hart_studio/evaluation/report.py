"""Evaluation report: one self-contained HTML file, and its tables and figures as files.

::

    <folder>/report.html  report.md  tables/<name>.{csv,tex}  figures/<name>.{svg,png}
"""

from __future__ import annotations

import html
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from PIL import Image

from hart_studio.errors import ImageError, InputError
from hart_studio.evaluation.accuracy import is_scored
from hart_studio.evaluation.charts import to_png, to_svg
from hart_studio.evaluation.failures import (
    ModelAnswer,
    count_verdicts,
    default_protocol,
    select_contrast,
    select_failures,
)
from hart_studio.evaluation.figures import ReportFigure, draw_sample, make_figures, write_sample
from hart_studio.evaluation.html_page import GENERATOR, write_page
from hart_studio.evaluation.records import Evaluation
from hart_studio.evaluation.tables.collection import make_tables
from hart_studio.evaluation.tables.table import Table, file_stem, of_benchmark
from hart_studio.evaluation.tables.writers import escape_markdown, to_csv, to_html, to_latex, to_markdown
from hart_studio.files import write_atomically
from hart_studio.formatting import list_reasons
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.outputs import check_output

SAMPLES_DRAWN: Final = 12
"""Number of failures drawn per benchmark."""

_WIDTH_PX: Final = 1680
_SMALL_PX: Final = 560
_LARGE_PX: Final = 1024
_REASONS: Final = 5
_TITLE: Final = "Evaluation report"
_HEAD: Final = f"<h1>{_TITLE}</h1>"

_STYLE: Final = (
    ".figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,40rem),1fr));gap:1rem 2rem}"
    ".figures figure{max-width:860px}figcaption{color:var(--quiet);font-size:.9em}"
    "nav ul{columns:18rem;column-gap:2.5rem;padding-left:1.2rem}p{max-width:72rem}"
    ".samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr));gap:1.25rem}"
    ".sample{border:1px solid var(--rule);border-radius:6px;padding:.75rem;overflow-wrap:anywhere}"
    ".sample img{width:100%;height:auto;display:block}.sample p{margin:.4rem 0}.sample ul{padding-left:0}"
    ".sample li{margin:.2rem 0}.sample ul li{list-style:none}.sample ol{margin:.3rem 0;padding-left:1.6rem}"
    ".swatch{display:inline-block;width:.8em;height:.8em;margin-right:.4em;border-radius:2px}"
    ".swatch.gold{background:none;border:2px dashed #e8c400;box-sizing:border-box}"
    ".figure-4{max-width:100%}.figure-4 img{max-width:100%;height:auto}"
)


def write_report(
    evaluations: Sequence[Evaluation],
    folder: Path,
    *,
    samples_drawn: int = SAMPLES_DRAWN,
    open_image: ImageOpener = SourceImage,
) -> Path:
    """Write the report of some evaluations.

    Args:
        evaluations: Evaluations of any benchmarks, complete or partial.
        folder: Output folder, created if missing; files of the same names are replaced.
        samples_drawn: Number of failures drawn per benchmark; 0 = none.
        open_image: Opens an image by the path in its record.

    Returns:
        The HTML file.

    Raises:
        InputError: If the folder has files of the same names that are no earlier report.
        OSError: If a file cannot be written.
    """
    check_folder(folder)
    for name in ("tables", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    tables, figures = make_tables(evaluations), make_figures(evaluations)
    for table in tables:
        write_atomically(folder / "tables" / f"{table.name}.csv", to_csv(table))
        write_atomically(folder / "tables" / f"{table.name}.tex", to_latex(table))
    for figure in figures:
        write_atomically(folder / "figures" / f"{figure.name}.svg", to_svg(figure.chart))
        write_atomically(folder / "figures" / f"{figure.name}.png", to_png(figure.chart))
    failures = {
        benchmark: select_failures(of_benchmark(evaluations, benchmark), samples_drawn)
        for benchmark in dict.fromkeys(evaluation.benchmark for evaluation in evaluations)
    }
    contrasts = [
        name
        for benchmark, shown in failures.items()
        if (name := _write_contrast(folder / "figures", benchmark, shown, open_image))
    ]
    write_atomically(folder / "report.md", _compose_markdown(evaluations, tables, figures, contrasts))
    body = [
        *_write_head(evaluations, tables, bool(figures)),
        *(f'<h2 id="{table.name}">{html.escape(table.title)}</h2>\n{to_html(table)}' for table in tables),
        *_write_figures(figures),
        *_write_failures(evaluations, failures, open_image),
    ]
    path = folder / "report.html"
    write_atomically(path, write_page(_TITLE, body, _WIDTH_PX, _STYLE))
    return path


def check_folder(folder: Path) -> None:
    """Check that a report can be written into a folder: it holds an earlier report or no file of these names.

    Raises:
        InputError: If it cannot.
    """
    path = folder / "report.html"
    check_output(path, "an evaluation report", lambda head: GENERATOR.encode() in head and _HEAD.encode() in head)
    taken = [name for name in ("report.md", "tables", "figures") if (folder / name).exists()]
    if taken and not path.is_file():
        raise InputError(
            f"Cannot write an evaluation report to {folder}: it holds {taken[0]!r}, which is not an earlier report. "
            "Choose another folder."
        )


def describe(evaluations: Sequence[Evaluation], tables: Sequence[Table]) -> Iterator[str]:
    """Describe the report in sentences: what is partial, unscored or missing, and why."""
    if not evaluations:
        yield "Nothing has been measured yet. Run an evaluation, then write the report again."
        return
    benchmarks = list(dict.fromkeys(evaluation.benchmark for evaluation in evaluations))
    yield f"{len(evaluations)} evaluation(s) on {len(benchmarks)} benchmark(s): {', '.join(benchmarks)}."
    for evaluation in evaluations:
        yield from describe_gaps(evaluation)
    names = {table.name for table in tables}
    if "table_6" not in names:
        yield (
            "No question has both gold boxes and a grounding turn, so there is no table or figure of boxes. A "
            "benchmark with gold boxes, asked under crops_only or full_and_crops, gives them."
        )
    if "comparison" not in names:
        yield ("No paired comparison possible: no two evaluations have scored the same questions of one benchmark.")


def describe_gaps(evaluation: Evaluation) -> Iterator[str]:
    """Describe what the metrics of an evaluation do not cover: invalid rows, unmeasured or unscored questions."""
    text = f"{evaluation.name} on {evaluation.benchmark}"
    records = evaluation.records
    if not evaluation.is_complete:
        yield f"{text} is partial: {len(records):,} of {evaluation.total:,} questions are measured."
    if rows := evaluation.rows_text:
        why = " Invalid rows were dropped; the warnings of the evaluation say why." if evaluation.left_out else ""
        yield f"{text}: {rows}.{why}"
    gaps: dict[str, list[str]] = {}  # protocols often share a gap: it is reported once
    for protocol in evaluation.protocols:
        missing = [record for record in records if not is_scored(record, protocol)]
        if missing:
            reasons = Counter(record.error or "no known answer" for record in missing)
            shown = "; ".join(list_reasons(reasons, _REASONS, lambda reason, count: f"{count} x {reason}"))
            none = " Nothing could be scored." if len(missing) == len(records) else ""
            gap = f"{len(missing):,} of {len(records):,} questions are unscored ({shown}).{none}"
            gaps.setdefault(gap, []).append(protocol)
        fallbacks = sum(is_scored(record, protocol) and record.answers[protocol].used_fallback for record in records)
        if fallbacks:
            gap = f"{fallbacks:,} answers came from the full image because no box was valid."
            gaps.setdefault(gap, []).append(protocol)
    for gap, protocols in gaps.items():
        yield f"{text}, {', '.join(protocols)}: {gap}"


def _write_head(evaluations: Sequence[Evaluation], tables: Sequence[Table], has_figures: bool) -> Iterator[str]:
    now = datetime.now(UTC)
    yield _HEAD
    yield f'<p class="quiet">Written {now:%Y-%m-%d %H:%M} UTC. Rows in italics are the paper\'s; all others were '
    yield "measured. Tables and figures are also saved as files in this folder.</p>"
    yield "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in describe(evaluations, tables)) + "</ul>"
    if tables:
        yield "<nav><ul>"
        yield from (f'<li><a href="#{table.name}">{html.escape(table.title)}</a></li>' for table in tables)
        yield '<li><a href="#figures">Figures</a></li>' if has_figures else ""
        yield '<li><a href="#failures">Failures</a></li></ul></nav>'


def _write_figures(figures: Sequence[ReportFigure]) -> Iterator[str]:
    if not figures:
        return
    yield '<h2 id="figures">Figures</h2><div class="figures">'
    for figure in figures:
        yield f"<figure>{to_svg(figure.chart)}<figcaption>{html.escape(figure.caption)}</figcaption></figure>"
    yield "</div>"


def _write_failures(
    evaluations: Sequence[Evaluation], failures: dict[str, list[list[ModelAnswer]]], open_image: ImageOpener
) -> Iterator[str]:
    if not evaluations:
        return
    yield '<h2 id="failures">Failures</h2>'
    yield (
        '<p class="quiet">Correct answers with wrong boxes first, lowest overlap first. Gold boxes are '
        "dashed; each model has its own color, under the protocol that is named.</p>"
    )
    for benchmark, chosen in failures.items():
        yield f"<h3>{html.escape(benchmark)}</h3>"
        for evaluation in of_benchmark(evaluations, benchmark):
            if evaluation.records:
                protocol = default_protocol(evaluation)
                counts = count_verdicts(evaluation.records, protocol)
                text = "; ".join(f"{verdict}: {count:,}" for verdict, count in counts.items())
                yield f"<p>{html.escape(evaluation.name)}, {protocol}, n = {len(evaluation.records):,}. {text}.</p>"
        if not chosen:
            yield "<p>No failure to draw.</p>"
            continue
        yield '<div class="samples">'
        for shown in chosen:
            yield write_sample(_open_image(shown, _SMALL_PX, open_image), shown)
        yield "</div>"


def _write_contrast(
    folder: Path, benchmark: str, failures: Sequence[list[ModelAnswer]], open_image: ImageOpener
) -> str:
    """Write Fig. 4; returns its file name without suffix, or nothing without a failure or image."""
    shown = select_contrast(failures)
    image = _open_image(shown, _LARGE_PX, open_image) if shown else None
    if shown is None or image is None:
        return ""
    stream = io.BytesIO()
    draw_sample(image, shown).save(stream, "PNG")
    name = file_stem(f"figure_4_{benchmark}")
    write_atomically(folder / f"{name}.png", stream.getvalue())
    return name


def _open_image(shown: Sequence[ModelAnswer], max_side: int, opener: ImageOpener) -> Image.Image | None:
    """The upright image of a question, downscaled; None if it cannot be read."""
    path = shown[0].record.image
    try:
        if path:
            with opener(path) as source:
                return source.overview(max_side=max_side)
    except (ImageError, MemoryError):
        pass
    return None


def _compose_markdown(
    evaluations: Sequence[Evaluation],
    tables: Sequence[Table],
    figures: Sequence[ReportFigure],
    contrasts: Sequence[str],
) -> str:
    parts = [f"# {_TITLE}", *(escape_markdown(sentence) for sentence in describe(evaluations, tables))]
    parts += [to_markdown(table).rstrip() for table in tables]
    if figures or contrasts:
        parts.append("## Figures")
    for figure in figures:
        parts += [f"![{figure.name}](figures/{figure.name}.svg)", escape_markdown(figure.caption)]
    parts += [f"![one question under every model](figures/{name}.png)" for name in contrasts]
    return "\n\n".join(parts) + "\n"

"""Evaluation job in a run directory, in batches; all participating processes run the same function.

Finished questions are in the record files of the run, so a killed evaluation resumes where it ended, with any number of
processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Final

from hart_studio.data.benchmarks.catalog import get_benchmark, load_benchmark
from hart_studio.data.benchmarks.images import image_cache_folder
from hart_studio.data.run_samples import LazySceneRenderer, SampleSource, generate_samples
from hart_studio.data.splits import fingerprint
from hart_studio.errors import DataError, HartError, ModelError
from hart_studio.evaluation.accuracy import count_accuracy
from hart_studio.evaluation.config import (
    DRAWN_QUESTIONS,
    EvaluationConfig,
    check_inputs,
    read_config,
    read_inputs,
    write_inputs,
)
from hart_studio.evaluation.grounding_metrics import list_area_shares
from hart_studio.evaluation.measurement import measure_batch, record_model_error
from hart_studio.evaluation.records import SampleResult
from hart_studio.evaluation.shards import (
    Shard,
    ShardReader,
    append_records,
    iterate_batches,
    read_worker_error,
    shard_path,
    write_worker_error,
)
from hart_studio.files import read_regular_file, write_json
from hart_studio.image_domains import NEEDLE, read_image_domain
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.models.catalog import describe_domain_mismatch, read_intended_domain
from hart_studio.models.chat import ChatModel, WarnsAboutImageSizes
from hart_studio.pipeline.question_stream import ConcurrentModel, stream_questions, stream_width
from hart_studio.progress import ProgressReporter
from hart_studio.records import GoldSample, Record
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.provenance import collect_provenance
from hart_studio.runs.writer import RunWriter, create_run

MAX_CONSECUTIVE_FAILURES: Final = 16
"""Consecutive failing questions after which an evaluation ends: then the questions are not the cause. Project
default."""

MAX_FAILING_SECONDS: Final = 900.0
"""Time without an answer since the first failure after which an evaluation ends too: a dead server takes minutes per
question. Project default."""

DATASET_INFO_FILE: Final = "dataset_info.json"
"""File of the run with the dataset information: number of questions and invalid rows."""

MAX_INVALID_ROWS: Final = 1000
"""Number of invalid rows listed in that file; all are counted."""

REPORT_SECONDS: Final = 1.0
"""Minimum time between progress reports: metrics are computed from all records so far, which would slow down a fast
model after every batch."""

ALLOW_DROPPED: Final = "To evaluate the other rows anyway, pass --allow-dropped (on the page: Allow dropped rows)."
"""How to continue with many invalid rows."""

_POLL_SECONDS: Final = 0.2
_MAX_REASON_CHARS: Final = 500

OpenModel = Callable[[EvaluationConfig], ChatModel]
"""Loads the model of an evaluation, or connects to it."""


class DatasetInfo(Record):
    """Questions of an evaluation; ``dataset_info.json`` of its run."""

    benchmark: str
    """Name of the benchmark."""
    samples: int
    """Number of questions."""
    fingerprint: str
    """SHA-256 of the questions, hexadecimal: equal for evaluations of the same questions."""
    invalid_count: int = 0
    """Number of invalid rows."""
    invalid_rows: tuple[tuple[str, str], ...] = ()
    """(location, reason) of the first invalid rows."""
    published: int | None = None
    """Published number of questions; None for a part of the benchmark, or if it is not fixed."""


def prepare_run(
    runs_root: Path, config: EvaluationConfig, prepare: Callable[[RunLayout], object] | None = None
) -> RunLayout:
    """Create a run, ready to start.

    Args:
        runs_root: Runs folder.
        config: Settings of the evaluation.
        prepare: See ``create_run``.

    Raises:
        InputError: If the benchmark does not exist.
        OSError: If the folder cannot be created.
    """
    get_benchmark(config.benchmark)
    return create_run(runs_root, "evaluation", config, "evaluation", config.known_count or config.limit or 0, prepare)


def load_questions(config: EvaluationConfig, folder: Path) -> SampleSource:
    """Load the questions of an evaluation.

    Args:
        config: Settings with benchmark, path and limit.
        folder: Folder for images that are drawn for this evaluation.

    Raises:
        HartError: If they cannot be read.
    """
    if config.benchmark == "needle" and not config.path:
        folder.mkdir(parents=True, exist_ok=True)
        return generate_samples("test", config.limit or DRAWN_QUESTIONS, folder)
    loaded = load_benchmark(
        config.benchmark,
        config.path,
        image_root=Path(config.image_root) if config.image_root else None,
        cache=image_cache_folder(config.benchmark),
        limit=config.limit,
        subsets=config.subsets or None,
        exclude=config.exclude,
    )
    return SampleSource(loaded)


def run_evaluation(
    layout: RunLayout, open_model: OpenModel, shard: Shard | None = None, progress: ProgressReporter | None = None
) -> bool:
    """Process the remaining questions of this process. The first process waits for the others and reports for all.

    Args:
        layout: Run from ``prepare_run``.
        open_model: Loads the model.
        shard: Shard of this process; all questions by default.
        progress: Shows the progress of all processes in the first one; None = no output.

    Returns:
        Whether all questions are done.

    Raises:
        HartError: If the questions or the model are unusable, or more than 1 % of the rows are invalid and the settings
            do not allow it. A failing question is recorded, and the run continues.
    """
    config, shard = read_config(layout), shard or Shard()
    writer = RunWriter(layout, 0, progress=progress) if shard.is_first else None
    with writer or _report_worker_error(layout, shard):
        set_phase, warn = (writer.set_phase, writer.warn) if writer else (_ignore_text, _ignore_text)
        set_phase("reading the questions")
        source = load_questions(config, layout.folder / "images")
        if not config.allow_dropped:
            source.loaded.check_dropped(ALLOW_DROPPED)
        samples = source.loaded.samples
        is_drawn = isinstance(source.open_image, LazySceneRenderer)  # they have no files
        inputs = read_inputs(config, () if is_drawn else (sample.image for sample in samples))
        check_inputs(layout, inputs)
        shards = ShardReader(layout, shard.attempt)
        shards.poll()
        open_image = source.open_image
        if config.served is not None and open_image is SourceImage:
            open_image = partial(SourceImage, draft_margin=config.served.draft_margin)
        work = _Worker(layout, config, open_image, shards, shard, set_phase, warn).work(samples, open_model)
        if writer is None:
            for _ in work:
                if layout.stop.exists():
                    break
            shards.poll()
        else:
            _announce(writer, source, config, shards.done)
            write_inputs(layout, inputs)
            _watch(writer, shards, shard, samples, work)
            if shards.model_errors:
                writer.leave_incomplete(
                    f"the model failed on {shards.model_errors} questions; resume the evaluation to retry them"
                )
        return shards.has_all(samples) and not shards.model_errors


@contextmanager
def _report_worker_error(layout: RunLayout, shard: Shard) -> Iterator[None]:
    """Report to the first process that this one cannot continue."""
    try:
        yield
    except BaseException as error:
        write_worker_error(
            layout, shard, f"process {shard.rank}: {str(error) or type(error).__name__}"[:_MAX_REASON_CHARS]
        )
        raise


def _watch(
    writer: RunWriter, shards: ShardReader, shard: Shard, samples: Sequence[GoldSample], work: Iterable[None]
) -> None:
    """Process the questions of the first process, wait for the others, and report the progress of all.

    Raises:
        ModelError: If another process has ended early.
    """
    reported_at = -REPORT_SECONDS
    for _ in work:
        if time.monotonic() - reported_at >= REPORT_SECONDS:
            _report_progress(writer, shards)
            reported_at = time.monotonic()
        if writer.is_stop_requested:
            break
    _report_progress(writer, shards)
    while not shards.has_all(samples) and not writer.is_stop_requested:
        if reason := read_worker_error(writer.layout, shard):
            raise ModelError(f"A process of the evaluation has ended: {reason}. Resume the evaluation.")
        time.sleep(_POLL_SECONDS)
        _report_progress(writer, shards)


@dataclass
class _Worker:
    """Work of one process."""

    layout: RunLayout
    config: EvaluationConfig
    open_image: ImageOpener
    shards: ShardReader
    shard: Shard
    set_phase: Callable[[str], None]
    warn: Callable[[str], None]
    failures: int = 0
    failing_since: float | None = None

    def work(self, samples: Sequence[GoldSample], open_model: OpenModel) -> Iterable[None]:
        """Measure in batches and yield after each; the model is loaded for the first batch with remaining questions."""
        model: ChatModel | None = None
        path = shard_path(self.layout, self.shard.rank)
        if self.config.served is not None:
            yield from self._work_streaming(samples, open_model, path)
            return
        numbers = {sample.id: number for number, sample in enumerate(samples)}
        for batch in iterate_batches(samples, self.config.batch, self.shard):
            if self.shards.has_all(batch):
                continue
            if model is None:
                self.set_phase("loading the model")
                model = open_model(self.config)
                self.set_phase("running the first batch")
            # The whole batch is asked as in the first attempt; existing records are kept.
            records = self._measure(model, batch, numbers[batch[0].id])
            left = [record for record in records if not self.shards.is_done(record.sample_id)]
            attempt = {"attempt": self.shard.attempt}
            append_records(path, [record.model_copy(update=attempt) for record in left])
            yield

    def _work_streaming(self, samples: Sequence[GoldSample], open_model: OpenModel, path: Path) -> Iterator[None]:
        """Measure with a served model: questions are independent of each other, and their records are in order.

        The share of a process is the same as in batches. Each question has its own seed, so a resumed evaluation asks
        only the remaining ones.
        """
        numbers = {sample.id: number for number, sample in enumerate(samples)}
        own = [sample for batch in iterate_batches(samples, self.config.batch, self.shard) for sample in batch]
        left = [sample for sample in own if not self.shards.is_done(sample.id)]
        if not left:
            return
        self.set_phase("loading the model")
        model = open_model(self.config)
        self.set_phase("running the first questions")

        def ask(sample: GoldSample) -> SampleResult | str:
            try:
                return self._measure_together(model, [sample], numbers[sample.id])[0]
            except Exception as error:  # a library may raise anything for one question; the others continue
                return _describe_error(error)

        width = stream_width(model) if isinstance(model, ConcurrentModel) else 1
        is_warned = False
        try:
            for sample, found in stream_questions(ask, left, width, self.layout.stop.exists):
                if isinstance(found, str):
                    self._check_failure_limit(found, is_single=True)
                    record = record_model_error(sample, self.config.protocols, found[:_MAX_REASON_CHARS])
                else:
                    self.failures, self.failing_since = 0, None
                    record = found
                if not is_warned and isinstance(model, WarnsAboutImageSizes) and (text := model.image_size_warning()):
                    is_warned = True
                    self.warn(text)
                append_records(path, [record.model_copy(update={"attempt": self.shard.attempt})])
                yield
        finally:
            if isinstance(model, ConcurrentModel):
                model.close()

    def _measure_together(self, model: ChatModel, samples: Sequence[GoldSample], number: int) -> list[SampleResult]:
        """Measure questions in one batch, with a seed that depends on the number of the first one."""
        config = self.config
        # Sampled answers must not depend on the process, and must differ between batches.
        seed = None if config.loop.seed is None else config.loop.seed + number
        loop = config.loop.model_copy(update={"seed": seed})
        official = get_benchmark(config.benchmark).official
        return measure_batch(model, samples, config.protocols, loop, official, self.open_image)

    def _measure(self, model: ChatModel, batch: Sequence[GoldSample], number: int) -> list[SampleResult]:
        def ask(samples: Sequence[GoldSample]) -> list[SampleResult]:
            """Measure a batch; if it fails as a whole, its halves, so that one question cannot fail others."""
            try:
                records = self._measure_together(model, samples, number)
            except Exception as error:  # a library may raise anything for one question; the others continue
                text = _describe_error(error)
                self._check_failure_limit(text, is_single=len(samples) == 1)
                if len(samples) > 1:
                    half = len(samples) // 2
                    return ask(samples[:half]) + ask(samples[half:])
                return [record_model_error(samples[0], self.config.protocols, text[:_MAX_REASON_CHARS])]
            self.failures, self.failing_since = 0, None
            return records

        return ask(batch)

    def _check_failure_limit(self, reason: str, *, is_single: bool) -> None:
        """Stop after too many consecutive failures, or after too much time with a dead server."""
        now = time.monotonic()
        self.failing_since = self.failing_since or now
        self.failures += is_single
        if self.failures >= MAX_CONSECUTIVE_FAILURES or now - self.failing_since > MAX_FAILING_SECONDS:
            raise ModelError(
                f"The model failed on the last {self.failures or 'batches of'} questions: "
                f"{reason[:_MAX_REASON_CHARS]}. Fix the cause and resume the evaluation."
            )


def compute_metrics(records: Iterable[SampleResult]) -> dict[str, float]:
    """Metrics so far: accuracies over scored questions, and counts of failed (not run) and unscored questions."""
    found = list(records)
    metrics = {"questions": float(len(found)), "failed": float(sum(bool(record.error) for record in found))}
    for protocol in {protocol for record in found for protocol in record.answers}:
        counted = count_accuracy(found, protocol)
        metrics[f"{protocol}/unscored"] = float(counted.unscored)
        if counted.share is not None:
            metrics[f"{protocol}/accuracy"] = counted.share
    golds = [gold for record in found for gold in record.gold_matches]
    if golds:
        metrics["iog_above_0.3"] = fmean(gold.is_found for gold in golds)
        metrics["iou"] = fmean(gold.iou for gold in golds)
    pointed = [record for record in found if record.has_grounding_turn and not record.error]
    if pointed:
        shares = list_area_shares(pointed)
        metrics |= {"area_share": fmean(shares)} if shares else {}
        metrics["valid_box_rate"] = fmean(bool(record.boxes) for record in pointed)
    return metrics


def _announce(writer: RunWriter, source: SampleSource, config: EvaluationConfig, done: int) -> None:
    """Record the dataset information.

    Raises:
        DataError: If it differs from that of an earlier attempt.
    """
    loaded = source.loaded
    path = writer.layout.folder / DATASET_INFO_FILE
    asked = DatasetInfo(
        benchmark=config.benchmark,
        samples=len(loaded.samples),
        fingerprint=fingerprint(loaded.samples),
        invalid_count=len(loaded.invalid_rows),
        invalid_rows=tuple((bad.row, bad.reason[:_MAX_REASON_CHARS]) for bad in loaded.invalid_rows[:MAX_INVALID_ROWS]),
        published=config.published_count,
    )
    if path.exists() and DatasetInfo.model_validate_json(read_regular_file(path)).fingerprint != asked.fingerprint:
        raise DataError(
            f"The questions at {config.path or 'the hub'} differ from those that {writer.layout.run_id} started with. "
            "Restore them, or start a new evaluation."
        )
    write_json(path, asked.model_dump(mode="json"))
    writer.set_total(len(loaded.samples))
    device = config.served.url if config.served else config.device
    writer.start(collect_provenance(device, asked.fingerprint), done or None)
    for warning in _find_warnings(source, config):
        writer.warn(warning)
    for warning in loaded.describe_reasons(5):
        writer.warn(warning)


def _find_warnings(source: SampleSource, config: EvaluationConfig) -> tuple[str, ...]:
    """Warning if the model was not made for the images of the benchmark."""
    if config.served or not read_intended_domain(config.model_name):
        return ()
    is_drawn = isinstance(source.open_image, LazySceneRenderer)  # they have no files yet
    images = dict.fromkeys(sample.image for sample in source.loaded.samples)
    domains = (NEEDLE,) if is_drawn else (read_image_domain(image) for image in images)
    found = (describe_domain_mismatch(config.model_name, domain, "these images") for domain in domains)
    warning = next(filter(None, found), "")
    return (warning,) if warning else ()


def _ignore_text(text: str) -> None:
    """The phase and the warnings of the first process stand for all processes."""


def _describe_error(error: Exception) -> str:
    return str(error) if isinstance(error, HartError) else f"{type(error).__name__}: {error}"


def _report_progress(writer: RunWriter, shards: ShardReader) -> None:
    """Report the progress of all processes."""
    new = shards.poll()
    if not new:
        writer.heartbeat()
        return
    for record in new:
        if record.error:
            writer.warn(f"{record.sample_id}: {record.error}")
    done = shards.done
    writer.set_phase("")
    writer.log_step(done, "", compute_metrics(shards.found.values()))

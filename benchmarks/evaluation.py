"""Throughput of evaluation with batches and processes, and memory with a large table.

``python -m benchmarks.evaluation``. Batches: the same drawn needle questions, batched and one by one, in alternating
rounds of one process. Processes: the real command with one process and with two, one thread each, in alternating
rounds; the time is between its first and its last question event. Memory: a whole evaluation of a synthetic
table of ``--table-mb`` megabytes with images in base64, with its resident memory sampled throughout.
"""

from __future__ import annotations

import argparse
import base64
import csv
import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hart_studio.data.benchmarks.images import CACHE_VARIABLE
from hart_studio.data.sources import load_needle
from hart_studio.evaluation.config import EvaluationConfig
from hart_studio.evaluation.job import prepare_run, run_evaluation
from hart_studio.evaluation.measurement import MEASURED_SETTINGS, measure_batch
from hart_studio.models.catalog import TRAINED_MODEL
from hart_studio.models.chat import ChatModel
from hart_studio.models.loading import load_model
from hart_studio.needle.__main__ import main as write_needle
from hart_studio.records import GoldSample
from hart_studio.runs.events import Started, StepDone
from hart_studio.runs.reader import list_runs, read_all_events

MEMORY = Path("/proc/self/status")

MIN_QUESTIONS = 4
"""Two processes must measure two batches each: the time is taken from the end of a batch to the end of a later one."""


def measure_rate(model: ChatModel, samples: Sequence[GoldSample], batch: int) -> float:
    """Questions per second under ``crops_only``."""
    began = time.perf_counter()
    for start in range(0, len(samples), batch):
        measure_batch(model, samples[start : start + batch], ["crops_only"], MEASURED_SETTINGS)
    return len(samples) / (time.perf_counter() - began)


def time_processes(data: Path, root: Path, processes: int, batch: int) -> float:
    """Questions per second of the command with several processes, each with one thread and several batches."""
    runs = root / f"runs-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "hart_studio.evaluation", "--benchmark", "needle", "--path", str(data)]
    command += ["--device", "cpu", "--batch", str(batch), "--max-new-tokens", "96", "--runs-root", str(runs)]
    command += ["--processes", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (run,) = list_runs(runs)
    events = list(read_all_events(run.layout))
    began = next(event.at for event in events if isinstance(event.payload, Started))
    steps = [event for event in events if isinstance(event.payload, StepDone)]
    # The model is loaded between the start and the first batch, so both ends are batches.
    first, last = steps[0], steps[-1]
    assert began < first.at
    return (last.step - first.step) / (last.at - first.at).total_seconds()


def write_table(path: Path, megabytes: int) -> int:
    """Write a table in the published format of HR-Bench with images of about 5 MB; return its number of rows."""
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 3000, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=92)
    image = buffer.getvalue()
    rows = max(1, megabytes * 1_000_000 * 3 // 4 // len(image))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["index", "question", "answer", "category", "A", "B", "C", "D", "cycle_category", "image"])
        for index in range(rows):
            # Bytes after the end of a JPEG are ignored, and make each image unique.
            cell = base64.b64encode(image + index.to_bytes(4, "big")).decode()
            kind = "single" if index % 2 else "cross"
            writer.writerow([index, f"What is {index}?", "A", kind, "red", "blue", "green", "black", index % 4, cell])
    return rows


def read_memory(field: str) -> float:
    """MiB of a field of this process's status, which is in kB."""
    (line,) = (line for line in MEMORY.read_text().splitlines() if line.startswith(f"{field}:"))
    return float(line.split()[1]) / 1024


def watch_memory(table: Path, root: Path, model: ChatModel) -> list[float]:
    """Resident memory in MiB, sampled twice per second during an evaluation of the table."""
    config = EvaluationConfig(
        benchmark="hr_bench_8k", path=str(table), model=TRAINED_MODEL, protocols=("direct",), loop=MEASURED_SETTINGS
    )
    layout = prepare_run(root / "runs", config)
    marks: list[float] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.5):
            marks.append(read_memory("VmRSS"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert run_evaluation(layout, lambda _: model)
    finally:
        is_over.set()
        watcher.join()
    return marks


def compare(title: str, fast: Sequence[float], slow: Sequence[float]) -> None:
    """Print both rates and their ratio with its range."""
    ratios = [one / other for one, other in zip(fast, slow, strict=True)]
    print(
        f"{title}: {statistics.median(fast):.2f} vs. {statistics.median(slow):.2f} questions per second, ratio "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--questions", type=int, default=64, help=f"at least {MIN_QUESTIONS} (64)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--table-mb", type=int, default=2000, help="0 = skip the table")
    options = parser.parse_args()
    if options.questions < MIN_QUESTIONS:
        parser.error(
            f"expected --questions of at least {MIN_QUESTIONS}, got {options.questions}: each of two processes "
            "measures two batches"
        )
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ[CACHE_VARIABLE] = str(root / "cache")
        data = root / "needle"
        assert write_needle(["--split", "test", "--count", str(options.questions), "--out", str(data)]) == 0
        samples = load_needle(data).samples
        model = load_model(TRAINED_MODEL, device="cpu")
        measure_rate(model, samples[: options.batch], options.batch)  # warm
        batched, single = [], []
        for _ in range(options.rounds):
            batched.append(measure_rate(model, samples, options.batch))
            single.append(measure_rate(model, samples, 1))
        print(f"{options.questions} questions on scenes of 4096 x 3072, crops only, {torch.get_num_threads()} threads")
        compare(f"batches of {options.batch} vs. single", batched, single)
        two, one, batch = [], [], min(8, options.questions // 4)
        for _ in range(options.rounds):
            two.append(time_processes(data, root, 2, batch))
            one.append(time_processes(data, root, 1, batch))
        compare("two processes vs. one", two, one)
        if options.table_mb:
            table = root / "hr_bench_8k.tsv"
            rows = write_table(table, options.table_mb)
            before = read_memory("VmRSS")
            marks = watch_memory(table, root, model)
            parts = [marks[len(marks) * part // 10 : len(marks) * (part + 1) // 10] for part in range(10)]
            shown = ", ".join(f"{max(part):.0f}" for part in parts if part)
            print(f"table of {table.stat().st_size / 1e6:.0f} MB, {rows} rows; {before:.0f} MiB resident before")
            print(f"maximum resident memory in each tenth of the evaluation, MiB: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

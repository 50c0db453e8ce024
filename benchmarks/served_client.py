"""CPU time of the client of a served model: ``python -m benchmarks.served_client``.

Draws needle scenes of 4096 x 3072 as JPEG and asks each question of a fake server in another process, whose replies
take no time. Prints the CPU time of this process per question for each way to decode and encode images, and the ratio
to decoding as for a local model and sending PNG. All ways take turns in one run; the first turn is not counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.closed_loop import draw
from hart_studio.evaluation.measurement import measure_batch
from hart_studio.imaging import SourceImage
from hart_studio.models.served import ServedChatModel
from hart_studio.models.served_settings import ServedSettings
from hart_studio.pipeline.question_stream import stream_questions, stream_width
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.prompts import GROUNDING_INSTRUCTION
from hart_studio.records import PROTOCOLS, GoldSample, Protocol
from tests.fake_endpoint import Answer, FakeEndpoint, Seen

SIZE = (4096, 3072)
WAYS = {
    "png, decoded as locally": {"image_format": "png", "scaled_decoding": False},
    "png": {"image_format": "png"},
    "webp": {"image_format": "webp"},
    "jpeg": {"image_format": "jpeg"},
}


def answer(seen: Seen) -> Answer:
    """Point at a twentieth of the image, or answer."""
    text = '[{"bbox_2d": [400, 400, 600, 650], "label": "x"}]' if GROUNDING_INSTRUCTION in seen.text else "\\boxed{A}"
    return Answer((text,))


def serve(pipe: Connection) -> None:
    """Run the server, in its own process."""
    server = FakeEndpoint(answer)
    pipe.send(server.url)
    server.serve_forever()


@contextmanager
def fake_server() -> Iterator[str]:
    """Start the server; yields its URL."""
    receiver, sender = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(sender,), daemon=True)
    process.start()
    try:
        yield receiver.recv()
    finally:
        process.terminate()


def measure(url: str, paths: list[Path], protocols: tuple[Protocol, ...], way: dict[str, object]) -> float:
    """CPU seconds per question."""
    settings = ServedSettings(url=url, model="fake", family="qwen3_vl", concurrency=4, **way)
    model = ServedChatModel(settings)
    samples = [
        GoldSample(id=path.stem, image=str(path), question="Which character?", choices=("A", "K"), gold_boxes=())
        for path in paths
    ]
    opener = partial(SourceImage, draft_margin=settings.draft_margin)

    def ask(sample: GoldSample) -> object:
        return measure_batch(model, [sample], protocols, LoopSettings(), open_image=opener)

    began = time.process_time()
    for _ in stream_questions(ask, samples, stream_width(model)):
        pass
    seconds = (time.process_time() - began) / len(samples)
    model.close()
    return seconds


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image", type=Path, help="a JPEG to ask about instead of a drawn scene, for example a photo")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, fake_server() as url:
        path = options.image or draw(Path(folder), SIZE)
        paths = []
        for number in range(options.images):
            paths.append(Path(folder) / f"{number}.jpg")
            paths[-1].write_bytes(path.read_bytes())
        for protocols in (("crops_only",), PROTOCOLS):
            seconds: dict[str, list[float]] = {name: [] for name in WAYS}
            for number in range(options.rounds + 1):
                for name, way in WAYS.items():
                    found = measure(url, paths, protocols, way)
                    if number:
                        seconds[name].append(found)
            print(f"{', '.join(protocols)}; {path.stat().st_size / 1e6:.1f} MB JPEG of {SIZE[0]} x {SIZE[1]}")
            base = seconds[next(iter(WAYS))]
            for name, each in seconds.items():
                ratios = [one / first for one, first in zip(each, base, strict=True)]
                print(
                    f"  {name:24s} {statistics.median(each):.3f} s ({min(each):.3f} to {max(each):.3f})   "
                    f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

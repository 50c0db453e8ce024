"""Time of one pass of the closed loop, with and without the model: ``python -m benchmarks.closed_loop``.

Draws a needle scene at 4096 x 3072 and at 8192 x 5460, then times overview, grounding, crop and answer with the
built-in model by phase, and prints medians with their range. Ratios are computed per run.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from hart_studio.imaging import SourceImage
from hart_studio.models.catalog import BUILT_IN_MODEL
from hart_studio.models.loading import load_model
from hart_studio.needle.drawing import draw_scene
from hart_studio.needle.scenes import SceneSettings, make_scene
from hart_studio.pipeline.cropping import extract_crops, select_crop_regions
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.turns import crops_only_request, grounding_request, make_overview, parse_grounding
from hart_studio.records import Box, Sample

SIZES = ((4096, 3072), (8192, 5460))


def draw(folder: Path, size_wh: tuple[int, int]) -> Path:
    """Draw one scene as a JPEG of the given size."""
    settings = SceneSettings(width=size_wh[0], height=size_wh[1], radius=(0.035, 0.055))
    scene = make_scene(np.random.default_rng([9, size_wh[0]]), settings)
    path = folder / f"{size_wh[0]}x{size_wh[1]}.jpg"
    Image.fromarray(draw_scene(scene, size_wh)).save(path, quality=90)
    return path


def run_once(model, path: Path, times: dict[str, list[float]]) -> dict[str, int]:
    """Run one pass; add seconds per phase and return visual tokens."""
    settings = LoopSettings(max_new_tokens=64)
    sample = Sample(
        id="x", image=str(path), question="Which character is on the red star?", choices=("A", "K", "2", "7")
    )
    clock = time.perf_counter
    began = clock()
    image = SourceImage(path)
    image.start_decoding()  # as the loop does for a single image
    overview = make_overview(image, model, settings)
    times["overview"].append(clock() - began)

    began = clock()
    request = grounding_request(overview, sample.question)
    ((completion,),) = model.generate([request], settings.sampling)
    times["grounding (model)"].append(clock() - began)

    began = clock()
    grounding = parse_grounding(request, completion, model.family, image.wh)
    boxes = grounding.boxes or (Box.from_xyxy((0, 0, image.width / 8, image.height / 8)),)
    (crops,) = extract_crops(image, [select_crop_regions(boxes, image.wh, model.family, settings)], model, settings)
    times["boxes and crop"].append(clock() - began)

    began = clock()
    ((answer,),) = model.generate([crops_only_request(sample, crops)], settings.sampling)
    times["answer (model)"].append(clock() - began)
    return {"overview": completion.visual_tokens, "crops": answer.visual_tokens}


def measure_in_own_process(path: Path, model_name: str, repeats: int) -> None:
    """Time one size, in a separate process to measure its peak memory."""
    model = load_model(model_name)
    times: dict[str, list[float]] = defaultdict(list)
    run_once(model, path, defaultdict(list))  # warm-up: first calls include lazy imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for _ in range(repeats):
        tokens = run_once(model, path, times)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with Image.open(path) as image:
        width, height = image.size
    step = model.family.resize_factor
    native = (width // step) * (height // step)
    print(f"\n{width} x {height}, {path.stat().st_size / 1e6:.1f} MB JPEG, {repeats} repeats")
    for phase, seconds in times.items():
        print(f"  {phase:20s} {statistics.median(seconds):7.3f} s   ({min(seconds):.3f} to {max(seconds):.3f})")
    paired = zip(
        times["overview"], times["boxes and crop"], times["grounding (model)"], times["answer (model)"], strict=True
    )
    ratios = [(a + b) / (c + d) for a, b, c, d in paired]
    print(f"  everything else / model {statistics.median(ratios):.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")
    print(
        f"  visual tokens: overview {tokens['overview']} + crops {tokens['crops']}; native resolution {native}, ",
        end="",
    )
    print(f"{native / (tokens['overview'] + tokens['crops']):.0f} times as many")
    print(f"  peak memory {peak:.0f} MiB ({before:.0f} MiB after the warm-up)")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=BUILT_IN_MODEL)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.image:
        measure_in_own_process(options.image, options.model, options.repeats)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        for size_wh in SIZES:
            command = [sys.executable, "-m", "benchmarks.closed_loop", "--image", str(draw(Path(folder), size_wh))]
            subprocess.run([*command, "--model", options.model, "--repeats", str(options.repeats)], check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

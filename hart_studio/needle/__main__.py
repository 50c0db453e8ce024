"""``python -m hart_studio.needle --split test --count 500 --out DIR``: write a needle dataset."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hart_studio.errors import HartError, InputError
from hart_studio.needle.dataset import SPLITS, iterate_items, write_item
from hart_studio.needle.scenes import SceneSettings
from hart_studio.outputs import check_output_folder
from hart_studio.progress import ProgressReporter
from hart_studio.subcommands import CommandParser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the dataset; returns 0, or 2 with one line on stderr for bad input."""
    parser = CommandParser(
        prog="python -m hart_studio.needle",
        description=__doc__,
        example="python -m hart_studio.needle --split test --count 50 --out needle-test",
    )
    parser.add_argument(
        "--split",
        choices=sorted(SPLITS),
        default="test",
        help="split to generate (%(default)s); splits share no scenes",
    )
    parser.add_argument("--count", type=int, default=500, help="number of questions, one image each")
    parser.add_argument("--seed", type=int, default=0, help="random seed (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="new or empty output folder")
    parser.add_argument("--width", type=int, default=4096, help="image width in pixels (%(default)s)")
    parser.add_argument("--height", type=int, default=3072, help="image height in pixels (%(default)s)")
    parser.add_argument(
        "--objects",
        type=int,
        nargs=2,
        default=(6, 12),
        metavar=("MIN", "MAX"),
        help="number of objects per scene (6 12)",
    )
    parser.add_argument(
        "--radius",
        type=float,
        nargs=2,
        default=(0.05, 0.078),
        metavar=("MIN", "MAX"),
        help="object radius as a share of the image width (0.05 0.078)",
    )
    parser.add_argument(
        "--clutter",
        type=float,
        default=1.0,
        help="0 = plain background, 1 = default background texture and small distractors (%(default)s)",
    )
    parser.add_argument(
        "--gist-share", type=float, default=0.3, help="share of questions that the overview can answer (%(default)s)"
    )
    options = parser.parse_args(argv)
    try:
        settings = SceneSettings(
            width=options.width,
            height=options.height,
            objects=tuple(options.objects),
            radius=tuple(options.radius),
            clutter=options.clutter,
        )
        _write(options, settings)
    except HartError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _write(options: argparse.Namespace, settings: SceneSettings) -> None:
    if options.count < 1:
        raise InputError(f"expected a count of at least 1, got {options.count}")
    if options.seed < 0:
        raise InputError(f"expected a seed of at least 0, got {options.seed}")
    if not 0 <= options.gist_share <= 1:
        raise InputError(f"expected a gist share from 0 to 1, got {options.gist_share}")
    check_output_folder(options.out, "a needle dataset")
    try:
        (options.out / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot create the folder {options.out}: {error.strerror}. Choose another one.") from error
    items = iterate_items(
        options.split, options.count, seed=options.seed, settings=settings, gist_share=options.gist_share
    )
    boxes = 0
    with ProgressReporter("image", options.count) as progress:
        for done, item in enumerate(items, start=1):
            write_item(item, options.out)
            boxes += len(item.question.gold_boxes)
            progress.update(done)
    print(f"wrote {options.count:,} questions with {boxes:,} gold boxes, one image each, to {options.out}")


if __name__ == "__main__":
    raise SystemExit(main())

"""A job that takes the place of a training where a test is about queue, devices and states: steps, but no model.

``python -m tests.browser.paced_job`` is started by the page with the arguments and variables of a training, and writes
its run as a training does. It needs a second instead of the ten in which a training imports its libraries.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from hart_studio.runs.layout import find_run
from hart_studio.runs.overrides import load_run_config
from hart_studio.runs.provenance import collect_provenance
from hart_studio.runs.writer import RUN_VARIABLE, RunWriter

STEP_SECONDS = 0.2


def main() -> None:
    """Do the steps of the run, or stop at the next one when asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs-root", type=Path, required=True)
    parser.add_argument("--preflight", action="store_true")
    options, _ = parser.parse_known_args()
    if options.preflight:
        return  # no findings
    layout = find_run(options.runs_root, os.environ[RUN_VARIABLE])
    total = load_run_config(layout).total_steps
    with RunWriter(layout, total=total) as run:
        run.start(collect_provenance("cpu"))
        for step in range(1, total + 1):
            time.sleep(STEP_SECONDS)
            run.log_step(step, "ap_grpo", {"reward": 0.5})
            if run.is_stop_requested:
                break
        with run.saving_checkpoint(step, "ap_grpo") as folder:
            (folder / "weights").write_text("x")


if __name__ == "__main__":
    main()

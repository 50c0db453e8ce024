"""File layout of a study, and the datasets and splits shared by its variants.

::

    DIR/study.json   DIR/train/   DIR/test/   DIR/logs/   DIR/runs/<run_id>/
    DIR/seed_0/split.json   DIR/seed_0/<variant>/{run.json, results.jsonl, evaluate.log}
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from hart_studio.data.sources import load_needle
from hart_studio.data.splits import SplitManifest, read_manifest, split_samples, write_manifest
from hart_studio.errors import DataError, HartError, InputError
from hart_studio.experiments.miniature.variants import StudySize, StudyVariant, base_config
from hart_studio.files import write_json
from hart_studio.runs.config import RunConfig
from hart_studio.runs.layout import RunLayout, find_run


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study.

    Attributes:
        folder: Absolute.
        size: Size of the study.
        model: Initial model; empty = the built-in one.
    """

    folder: Path
    size: StudySize
    model: str = ""

    @property
    def config(self) -> RunConfig:
        """Common settings of all variants."""
        return base_config(self.size, self.model, self.train)

    @property
    def train(self) -> Path:
        """Training questions of all variants and seeds."""
        return self.folder / "train"

    @property
    def test(self) -> Path:
        """Test questions for all models."""
        return self.folder / "test"

    @property
    def runs(self) -> Path:
        """Root of the training runs."""
        return self.folder / "runs"

    @property
    def logs(self) -> Path:
        """Logs of drawing the questions."""
        return self.folder / "logs"

    def variant_folder(self, variant: StudyVariant, seed: int) -> Path:
        """Files of a variant, except its run."""
        return self.folder / f"seed_{seed}" / variant.name

    def results_path(self, variant: StudyVariant, seed: int) -> Path:
        """Results of a variant; present = the variant is complete."""
        return self.variant_folder(variant, seed) / "results.jsonl"

    def find_run(self, variant: StudyVariant, seed: int) -> RunLayout | None:
        """Find the training run of a variant; None if it has not started.

        Raises:
            DataError: If the file with its id cannot be read.
            InputError: If there is no such run.
        """
        path = self.variant_folder(variant, seed) / "run.json"
        if not path.exists():
            return None
        try:
            run_id = str(json.loads(path.read_bytes())["run"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"Cannot read the run id in {path}: {error}. Remove the file.") from error
        return find_run(self.runs, run_id)

    def write_run_id(self, variant: StudyVariant, seed: int, layout: RunLayout) -> None:
        """Save the run id of a variant."""
        write_json(self.variant_folder(variant, seed) / "run.json", {"run": layout.run_id})

    def open(self) -> None:
        """Create the folder, or check that it contains a study with the same settings.

        Raises:
            InputError: If it contains another study.
        """
        plan = {
            "model": self.model,
            "test_questions": self.size.test_questions,
            "test_arguments": list(self.size.test_arguments),
            "settings": self.config.model_dump(mode="json"),
        }
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.folder / "study.json"
        if not path.exists():
            write_json(path, plan)
            return
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"Cannot read the study settings in {path}: {error}") from error
        if found != plan:
            raise InputError(f"{self.folder} contains a study with other settings. Choose another --out.")

    def split(self, seed: int) -> SplitManifest:
        """The split of a seed, shared by all its variants.

        Without a shared manifest, D_SFT of a run with one stage could overlap D_RL of another run; the manifest keeps
        them disjoint (paper, Sec. 4.3).

        Raises:
            HartError: If the training questions cannot be read, or are too few.
        """
        path = self.folder / f"seed_{seed}" / "split.json"
        if path.exists():
            return read_manifest(path)
        data = self.config.data
        samples = load_needle(self.train).samples
        split = split_samples(
            samples, data.rl_samples, data.sft_samples, data.eval_samples, seed=seed, split_by_image=data.split_by_image
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(path, split.manifest)
        return split.manifest


def publish_folder(draft: Path, folder: Path) -> None:
    """Rename a complete draft folder.

    Raises:
        HartError: If it has no samples, because drawing failed.
    """
    if not (draft / "samples.jsonl").exists():
        raise HartError(f"{draft} contains no questions; see the log in the same folder")
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)

"""Checkpoints of a trainer in the run folder: atomic, numbered across all stages.

The trainer saves into a draft folder; the files are then moved into the run folder, and the marker
of a complete checkpoint is written last.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from peft import PeftModel
from transformers import PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hart_studio.models.config_files import check_adapter_weights, check_config_files
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.writer import RunWriter
from hart_studio.training.non_finite import NonFiniteSteps
from hart_studio.training.parallelism import is_sharded

NOT_KEPT: Final = ("training_args.bin", "README.md")
"""Files that the libraries save with a model and that are not used; the first is a pickle."""
NOT_THE_MODEL: Final = (
    *("optimizer.*", "scheduler.pt", "scaler.pt", "rng_state*", "trainer_state.json", "complete.json"),
    "pytorch_model_fsdp*",  # FSDP's own copy of the weights
    *("global_step*", "latest", "zero_to_fp32.py"),  # DeepSpeed shards, and the tool to merge them
)
"""Patterns of the training state in a checkpoint."""


@dataclass(frozen=True, eq=False)
class Stage:
    """A stage of a run.

    Attributes:
        name: Name of its method.
        first_step: Number of steps of the run before it.
        steps: Number of its steps.
        writer: Writer of the run on the first process, None on the others.
    """

    name: str
    first_step: int
    steps: int
    writer: RunWriter | None

    @property
    def last_step(self) -> int:
        """Steps of the run at the end of the stage."""
        return self.first_step + self.steps


def draft_folder(layout: RunLayout) -> Path:
    """Folder of trainer saves before they become a checkpoint."""
    return layout.checkpoints / "draft"


class RunCheckpoints(NonFiniteSteps):
    """Trainer mixin that saves into a run; list it before the trainer base class.

    Attributes:
        stage: The stage of the run.
    """

    stage: Stage

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        writer = self.stage.writer
        if writer is not None:
            step = self.stage.first_step + self.state.global_step
            draft = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            # A checkpoint of a non-finite step, saved on a stop request, must not replace the last finite one.
            is_kept = self.state.global_step == self.stage.steps or bool(self.non_finite)
            with writer.saving_checkpoint(step, self.stage.name, is_kept=is_kept) as folder:
                for path in sorted(draft.iterdir()):
                    if path.name not in NOT_KEPT:
                        path.rename(folder / path.name)
            shutil.rmtree(draft)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the weights like ``from_pretrained``.

        The base trainer reads the file itself and ignores names that it does not find. Some families are
        saved with other names than in memory, so it would continue from weights that were not loaded.
        """
        folder = Path(resume_from_checkpoint)
        check_config_files(str(folder), folder)
        if isinstance(self.model, PeftModel):
            check_adapter_weights(str(folder), folder)
        if is_sharded(self) or not isinstance(self.model, PreTrainedModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(self.model).from_pretrained(
            resume_from_checkpoint,
            dtype=self.model.dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
        self.model.load_state_dict(saved.state_dict(), strict=True)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no model card: the run records the provenance."""


def save_final_model(checkpoint: Path, folder: Path) -> None:
    """Export the model of a checkpoint, without the training state.

    Files are hard-linked if possible, to save space.

    Args:
        checkpoint: A complete checkpoint.
        folder: Target folder; replaced if it exists.
    """
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(
        checkpoint,
        draft,
        copy_function=_link_or_copy,
        ignore=shutil.ignore_patterns(*NOT_THE_MODEL),
    )
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def _link_or_copy(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)

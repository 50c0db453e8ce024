"""Checkpoints of a trainer in the layout of a run: whole or not there, numbered through all stages.

The trainer saves into a draft folder as it always does; the files then move into the run's own folder, and the marker
that makes them a checkpoint is written last.
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
from hart_studio.training.sharding import is_sharded

NOT_KEPT: Final = ("training_args.bin", "README.md")
"""What the libraries save beside a model and no one reads here; the first is a pickle."""
NOT_THE_MODEL: Final = (
    *("optimizer.*", "scheduler.pt", "scaler.pt", "rng_state*", "trainer_state.json", "complete.json"),
    "pytorch_model_fsdp*",  # FSDP's own copy of the weights
    *("global_step*", "latest", "zero_to_fp32.py"),  # DeepSpeed's shards, and its tool to join them
)
"""Patterns of what a checkpoint holds to continue from."""


@dataclass(frozen=True, eq=False)
class Stage:
    """The place of one stage in a run.

    Attributes:
        name: Its method.
        first_step: Steps of the run before it.
        steps: Its own steps.
        writer: The run's writer on the first process, None on the others.
    """

    name: str
    first_step: int
    steps: int
    writer: RunWriter | None

    @property
    def last_step(self) -> int:
        """Steps of the run when it is done."""
        return self.first_step + self.steps


def draft_folder(layout: RunLayout) -> Path:
    """Where trainers save before the files become a checkpoint."""
    return layout.checkpoints / "draft"


class RunCheckpoints(NonFiniteSteps):
    """The part of a trainer that saves into a run; comes before the trainer that it is mixed into.

    Attributes:
        stage: Where the steps of this trainer stand in the run.
    """

    stage: Stage

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        writer = self.stage.writer
        if writer is not None:
            step = self.stage.first_step + self.state.global_step
            draft = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            # One from a non-finite step, which a stop asked for, must not push out the last finite one.
            is_kept = self.state.global_step == self.stage.steps or bool(self.non_finite)
            with writer.saving_checkpoint(step, self.stage.name, is_kept=is_kept) as folder:
                for path in sorted(draft.iterdir()):
                    if path.name not in NOT_KEPT:
                        path.rename(folder / path.name)
            shutil.rmtree(draft)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Read the weights as ``from_pretrained`` does.

        The trainer below reads the file itself and passes over every name that it does not find. Some families are
        saved under other names than they have in memory, so it would continue from weights that were never loaded.
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
        """Write none: the run's own records say where a checkpoint came from."""


def publish_model(checkpoint: Path, folder: Path) -> None:
    """Give the model of a checkpoint a place of its own, without what is needed only to continue training.

    Files are linked where the disk allows it, so the model takes no space twice.

    Args:
        checkpoint: A complete checkpoint.
        folder: Where the model goes; replaced when it exists.
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

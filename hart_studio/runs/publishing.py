"""Upload the model of a checkpoint to the Hub with the user's token. The token is never stored."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from hart_studio import __version__
from hart_studio.errors import InputError, ModelError
from hart_studio.runs.checkpoints import Checkpoint, list_checkpoints
from hart_studio.runs.config import RunConfig
from hart_studio.runs.history import RunHistory
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.overrides import dump_config, load_config

_REPO: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_MODEL_FILES: Final = (".safetensors", ".json", ".jinja", ".txt", ".model")
_MAY_HOLD_PATH: Final = re.compile(r'"(?:[/~.]|file:|[A-Za-z]:|\\)[^"\n]*[/\\][^"\n]+"')
"""Keys in JSON whose text may be a local path."""
_VOCABULARY_FILES: Final = ("tokenizer.json", "vocab.json", "added_tokens.json")
"""Files whose texts are tokens, even if they resemble a path."""
_TRAINER_FILES: Final = ("complete.json", "trainer_state.json")
"""Training state in a checkpoint that is not part of the model; pickled files are never model files."""


@dataclass(frozen=True)
class Destination:
    """Target of an upload.

    Attributes:
        repo: ``owner/name``.
        token: Access token of the user, with write permission.
        is_private: Whether a new repository is private.
    """

    repo: str
    token: str
    is_private: bool = True

    def __repr__(self) -> str:
        """Omit the token, which logs and stack traces must not contain."""
        return f"Destination({self.repo!r})"


def publish_checkpoint(layout: RunLayout, step: int | None, destination: Destination) -> str:
    """Upload the model of a checkpoint with a model card, in one commit.

    Args:
        layout: The run.
        step: Step of the checkpoint; None = the newest.
        destination: Target repository and token.

    Returns:
        URL of the model.

    Raises:
        InputError: If the name, the token or the checkpoint is invalid.
        ModelError: If the Hub refuses the upload or cannot be reached.
    """
    if not _REPO.fullmatch(destination.repo):
        raise InputError(f"Invalid repository {destination.repo[:100]!r}: use owner/name")
    if not destination.token.strip():
        raise InputError("An access token with write permission is needed. Create one on the settings page of the Hub.")
    found = [item for item in list_checkpoints(layout) if step in (None, item.manifest.step)]
    if not found:
        if step is None:
            raise InputError(f"Run {layout.run_id} has no complete checkpoint yet. Choose another run.")
        raise InputError(f"Run {layout.run_id} has no complete checkpoint of step {step}. Choose another step.")
    checkpoint, config = found[-1], load_config(layout.config)
    files = [name for name in checkpoint.manifest.files if _is_model_file(name)]
    card = write_card(layout, checkpoint, config)
    operations = [CommitOperationAdd(name, _read_published(checkpoint.folder / name)) for name in files]
    operations += [
        CommitOperationAdd("README.md", card.encode()),
        CommitOperationAdd("training/config.json", _hide_json_paths(dump_config(config))),
    ]
    api = HfApi(token=destination.token.strip())
    try:
        address = api.create_repo(destination.repo, private=destination.is_private, exist_ok=True)
        api.create_commit(
            destination.repo,
            operations,
            commit_message=f"Checkpoint of step {checkpoint.manifest.step} of {layout.run_id}",
        )
    except OfflineModeIsEnabled as error:
        raise ModelError("Uploads are disabled on this server (HF_HUB_OFFLINE).") from error
    except HFValidationError as error:
        raise InputError(f"Invalid repository {destination.repo!r}: use owner/name") from error
    except HfHubHTTPError as error:
        raise ModelError(
            _explain(error, destination.repo)
        ) from None  # the chained error would contain the request headers
    except Exception as error:  # any error of the HTTP library of the Hub client
        raise ModelError(f"The Hub cannot be reached ({type(error).__name__}). Try again later.") from None
    return str(address)


def write_card(layout: RunLayout, checkpoint: Checkpoint, config: RunConfig) -> str:
    """Write the model card: base model, settings, and held-out metrics up to the step.

    Of a local base model, only the folder name is included.
    """
    history = RunHistory(layout)
    while history.refresh():
        pass
    is_local = is_local_path(config.model.id)
    base = hide_path(config.model.id) or "the built-in model of HART Studio"
    front = ["---", "library_name: transformers", "pipeline_tag: image-text-to-text", "tags: [grounding, hart]"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", config.model.id) and not is_local:
        front.append(f"base_model: {config.model.id}")
    lines = [
        *front, "---", "", f"# Checkpoint of step {checkpoint.manifest.step}", "",
        f"Trained with HART Studio {__version__}: `{config.method.stages}` from {base}, {config.total_steps} steps in "
        "all. The settings are in `training/config.json`.",
        "",
    ]  # fmt: skip
    table = history.curves()["evaluations"]
    count = sum(at <= checkpoint.manifest.step for at in table["steps"])
    if count:
        rows = sorted({0, count - 1})
        titles = [f"step {table['steps'][row]}" for row in rows]
        subset = f" (n = {history.held_out.samples:,}, set {history.held_out.fingerprint})" if history.held_out else ""
        lines += [f"| held-out metric{subset} | {' | '.join(titles)} |"]
        lines += ["| --- |" + " --- |" * len(rows)]
        for name, figure in table["metrics"].items():
            values = [figure["mean"][row] for row in rows]
            lines.append(f"| {name} | {' | '.join('–' if value is None else f'{value:.4f}' for value in values)} |")
    return "\n".join(lines) + "\n"


def is_local_path(text: str) -> bool:
    """Whether a text is a local path: an absolute path of any operating system, or an existing path."""
    if not text or "\0" in text or "\n" in text:
        return False
    is_absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith("~")
    try:
        return is_absolute or text.startswith(("./", "../", "file:")) or Path(text).exists()
    except OSError:  # name too long
        return False


def hide_path(text: str) -> str:
    """Return the last part of a local path; any other text unchanged."""
    if not is_local_path(text):
        return text
    return PureWindowsPath(text).name if "\\" in text else PurePosixPath(text).name


def _read_published(path: Path) -> str | bytes:
    """Return the file to upload: its path, or for JSON the content without local folders."""
    if path.suffix != ".json" or path.name in _VOCABULARY_FILES:
        return str(path)
    text = path.read_text("utf-8")
    return _hide_json_paths(text) if _MAY_HOLD_PATH.search(text) else str(path)


def _hide_json_paths(text: str) -> bytes:
    """Replace absolute paths in the values of a JSON document with their last part; keys are unchanged."""

    def hide(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: hide(each) for name, each in value.items()}
        if isinstance(value, list):
            return [hide(each) for each in value]
        if isinstance(value, str) and len(value) > 1 and _MAY_HOLD_PATH.search(f'"{value}"'):
            return hide_path(value)
        return value

    try:
        hidden = hide(json.loads(text))
    except ValueError as error:
        raise InputError("A file of the checkpoint is not valid JSON. Choose another checkpoint.") from error
    return (json.dumps(hidden, indent=2, ensure_ascii=False) + "\n").encode()


def _is_model_file(name: str) -> bool:
    return "/" not in name and name.endswith(_MODEL_FILES) and name not in _TRAINER_FILES


def _explain(error: HfHubHTTPError, repo: str) -> str:
    status = error.response.status_code if error.response is not None else None
    if status in (401, 403):
        return f"The token has no write permission for {repo}. Create one with write permission."
    return f"The Hub refused {repo} with status {status}. Try again later."

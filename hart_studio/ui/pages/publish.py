"""Form that uploads a checkpoint to the Hugging Face Hub with the user's token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from hart_studio.errors import HartError, InputError
from hart_studio.runs.layout import find_run
from hart_studio.runs.publishing import Destination, publish_checkpoint
from hart_studio.ui.api.handler import PollRequest
from hart_studio.ui.api.runs import RunMonitor
from hart_studio.ui.components.progress_status import Failed, ProgressStatus, Running
from hart_studio.ui.error_reporting import describe
from hart_studio.ui.security.permissions import Permissions


def build_publish_form(watch: RunMonitor, permissions: Permissions) -> None:
    """Build the form inside the current ``gr.Blocks`` and connect its events.

    Args:
        watch: Reads runs.
        permissions: Who may publish.
    """
    with gr.Accordion("Publish checkpoint", open=False, elem_id="publish"):
        run = gr.Dropdown([], label="Run", elem_id="publish-run")
        with gr.Row():
            repo = gr.Textbox(label="Repository", placeholder="owner/name", max_lines=1, elem_id="publish-repo")
            token = gr.Textbox(
                label="Access token", type="password", max_lines=1, elem_id="publish-token",
                info="Hugging Face token with write access; used once and not stored.",
            )  # fmt: skip
            is_private = gr.Checkbox(True, label="Private", scale=0)
        button = gr.Button("Publish latest checkpoint", elem_id="publish-button")
        status = ProgressStatus()
        done = gr.Markdown(visible=False, elem_id="publish-done")

    def list_runs(user: gr.OAuthProfile | None = None) -> Any:
        if not permissions.is_owner(user):
            return gr.skip()
        runs = (watch.list_runs(PollRequest()) or {"runs": []})["runs"]
        return gr.update(choices=[(f"{item['title']} ({item['chain']}, {item['state']})", item["id"]) for item in runs])

    def publish(
        run_id: str | None, name: str, secret: str, hidden: bool, user: gr.OAuthProfile | None = None
    ) -> Iterator[dict[Any, Any]]:
        try:
            permissions.require_write_access(user)
            if not run_id:
                raise InputError("No run selected. Choose one from the list.")
            layout = find_run(watch.runs_root, run_id)
            destination = Destination((name or "").strip(), secret or "", hidden)
            yield {status: Running(0.1, "Uploading"), done: gr.update(visible=False)}
            address = publish_checkpoint(layout, None, destination)
            yield {status: None, token: "", done: gr.update(value=f"Published: `{address}`", visible=True)}
        except HartError as error:
            found = describe(error)
            yield {status: Failed("Publishing failed", found.message)}
        except Exception as error:
            yield {status: describe(error)}

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    run.focus(list_runs, None, run, **quiet)
    button.click(publish, [run, repo, token, is_private], [status, token, done], **quiet)

"""Assemble the pages and define how they are served."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr
from gradio.utils import get_space
from starlette.middleware import Middleware

from hart_studio.errors import HartError
from hart_studio.runs.layout import RunLayout
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.endpoints import build_endpoints
from hart_studio.ui.api.evaluations import EvaluationApi
from hart_studio.ui.api.exports import LabelExportApi
from hart_studio.ui.api.handler import call_handler
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.launch import RunLauncher
from hart_studio.ui.api.runs import RunMonitor
from hart_studio.ui.cache import CacheCleaner
from hart_studio.ui.call_limits import MAX_RUNNING, CallLimits
from hart_studio.ui.components.example_picker import Example
from hart_studio.ui.connections import install_connection_limits
from hart_studio.ui.event_streams import EventStreams
from hart_studio.ui.mcp.auth import TokenAuth
from hart_studio.ui.model_queue import MAX_MODEL_CALLS
from hart_studio.ui.pages.ask import NO_COMPARISON_MODEL, build_ask_tab
from hart_studio.ui.pages.evaluate import build_evaluate_tab
from hart_studio.ui.pages.label import build_label_tab
from hart_studio.ui.pages.publish import build_publish_form
from hart_studio.ui.pages.train import build_train_tab
from hart_studio.ui.pages.watch import build_run_components, read_run, read_step, show_run
from hart_studio.ui.security.config_check import check_checkpoint
from hart_studio.ui.security.error_middleware import ErrorMiddleware
from hart_studio.ui.security.origin_check import OriginCheckMiddleware
from hart_studio.ui.security.permissions import Permissions
from hart_studio.ui.security.proxy_headers import NO_PROXY, ProxyConfig
from hart_studio.ui.security.request_limits import UPLOAD_LIMIT_BYTES, RequestLimitMiddleware
from hart_studio.ui.spaces.space import SpaceServices, build_space_banner
from hart_studio.ui.theme import ASSETS, build_theme

if TYPE_CHECKING:
    from hart_studio.ui.mcp.server import McpServer

MAX_QUEUED: Final = 256
"""Events of all visitors that may wait for a free thread; questions wait in ``ModelQueue``."""

MAX_THREADS: Final = MAX_MODEL_CALLS + sum(MAX_RUNNING.values()) + 16
"""Threads for events and component calls; waiting questions and calls leave some threads for other events."""

MAX_SESSIONS: Final = 200
"""Sessions kept by Gradio, 0.3 MB each; the oldest are dropped first. Component calls share one, see
``call_limits``."""

_HEADER: Final = """
<header class="hs-head">
  <svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="8" fill="#3a4cc4"></rect>
  <path d="M8 12V8h4M20 8h4v4M24 20v4h-4M12 24H8v-4" fill="none" stroke="#fff" stroke-width="2.4"
  stroke-linecap="round" stroke-linejoin="round"></path><circle cx="16" cy="16" r="3.4" fill="#fff"></circle></svg>
  <div><h1>HART Studio</h1><p>Visual question answering on large images, with the regions that support each
  answer.</p></div> <button type="button" id="theme-button" aria-label="Switch between light and dark">Light /
  dark</button>
</header>
"""


def build_app(
    service: AskService,
    examples: tuple[Example, ...],
    models: list[tuple[str, str]],
    launcher: RunLauncher,
    labels: LabelApi,
    permissions: Permissions | None = None,
    space: SpaceServices | None = None,
) -> gr.Blocks:
    """Build the pages.

    Args:
        service: Opens images and asks models.
        examples: Offered on the Ask tab.
        models: (title, name) of the models in the lists; the first is the default everywhere.
        launcher: Starts runs.
        labels: Reads and changes labeling projects.
        permissions: Who may do what; None = no restrictions.
        space: Services for visitors of a Space; None = not a Space.
    """
    permissions = permissions or Permissions()
    watch = RunMonitor(launcher.runs_root, service.folder / "runs")
    outputs = LabelExportApi(labels, service.folder)
    app: gr.Blocks
    with gr.Blocks(title="HART Studio", fill_width=True) as app:
        gr.HTML(_HEADER, apply_default_css=False, padding=False, js_on_load=None)
        if space is not None:
            build_space_banner(permissions, get_space())
        pages = build_run_components(watch, launcher, permissions)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Ask", id="ask"):
                ask = build_ask_tab(service, examples, models)
            with gr.Tab("Label", id="label", render_children=True):
                label = build_label_tab(labels, outputs, service, models, space.visitors if space else None)
            with gr.Tab("Train", id="train"):
                train = build_train_tab(launcher, watch, pages, tabs, permissions)
            with gr.Tab("Watch", id="watch", render_children=True):
                pages.view.render()  # type: ignore[no-untyped-call]
            with gr.Tab("Runs", id="runs"):
                pages.table.render()  # type: ignore[no-untyped-call]
                if launcher.is_open:
                    build_publish_form(watch, permissions)
            with gr.Tab("Evaluate", id="evaluate"):
                evaluations = EvaluationApi(launcher, watch)
                build_evaluate_tab(
                    evaluations, service, models, tabs, ask, permissions, space.examples if space else None
                )

        def open_run(event: gr.EventData) -> dict[Any, Any]:
            return show_run(pages, tabs, read_run(event))

        def open_model(event: gr.EventData, user: gr.OAuthProfile | None = None) -> dict[Any, Any]:
            try:
                permissions.require_owner(user)
                trained, base = service.find_checkpoint_model(launcher.runs_root, read_run(event), read_step(event))
                layout = RunLayout(Path(trained).parents[1])
                base = check_checkpoint(layout, trained, base, service.allowed, launcher.runs_root)
                title = watch.describe_checkpoint(Path(trained))
            except HartError as error:
                raise gr.Error(str(error), title="Cannot open checkpoint", print_exception=False) from error
            listed = gr.update(choices=[NO_COMPARISON_MODEL, (title, trained), *models], value=trained)
            return {tabs: gr.update(selected="ask"), ask.model_a: base, ask.model_b: listed}

        def train_on(event: gr.EventData, user: gr.OAuthProfile | None = None) -> list[Any]:
            try:
                permissions.require_write_access(user)
                wanted = event._data if isinstance(event._data, dict) else {}
                config = call_handler(outputs.training_config, wanted)
            except HartError as error:
                raise gr.Error(str(error), title="No training data", print_exception=False) from error
            return [gr.update(selected="train"), *train.fill(config)]

        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        pages.table.open_run(open_run, None, [tabs, pages.view], **quiet)
        pages.view.open_model(open_model, None, [tabs, ask.model_a, ask.model_b], **quiet)
        label.train_on(train_on, None, [tabs, *train.outputs], **quiet)
        build_endpoints(service, models[0][1])
    app.queue(max_size=MAX_QUEUED, api_open=False)
    return app


def launch_options(
    project_root: Path,
    hosts: Collection[str] | None,
    login: tuple[str, str] | None = None,
    mcp: tuple[McpServer, str] | None = None,
    cache: CacheCleaner | None = None,
    proxying: ProxyConfig = NO_PROXY,
) -> dict[str, Any]:
    """Arguments of ``Blocks.launch``: theme, scripts, limits and security middleware.

    Args:
        project_root: Folder that is never served.
        hosts: Accepted host names; None = all, see ``OriginCheckMiddleware``.
        login: User name and password; None = no login.
        mcp: MCP server and its token; None = no MCP.
        cache: Limits the size of the upload folder; None = no limit.
        proxying: Trusted proxy headers.
    """
    install_connection_limits()
    middleware = [
        Middleware(OriginCheckMiddleware, hosts=hosts, proxying=proxying),
        Middleware(ErrorMiddleware),
        Middleware(RequestLimitMiddleware, cache=cache),
        Middleware(CallLimits),
        Middleware(EventStreams),
    ]
    more: dict[str, Any] = {}
    if mcp is not None:
        server, token = mcp
        middleware.append(Middleware(TokenAuth, token=token, tools=server))
        more["lifespan"] = server.lifespan
    return {
        "theme": build_theme(),
        "css_paths": [ASSETS / "css" / name for name in ("studio.css", "runs.css", "label.css", "evaluate.css")],
        "js": (ASSETS / "js" / "page.js").read_text("utf-8"),
        "favicon_path": ASSETS / "favicon.svg",
        "ssr_mode": False,
        # gr.Error is shown anyway; the text of other exceptions could leak paths.
        "show_error": False,
        "max_file_size": UPLOAD_LIMIT_BYTES,
        "max_threads": MAX_THREADS,
        "state_session_capacity": MAX_SESSIONS,
        "run_history": False,
        "enable_monitoring": False,
        "strict_cors": True,
        "auth": login,
        "footer_links": ["api", "settings"],
        "blocked_paths": [str(project_root)],
        "app_kwargs": {
            "openapi_url": None,
            "docs_url": None,
            "redoc_url": None,
            "middleware": middleware,
            **more,
        },
    }

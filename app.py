"""Start HART Studio: ``python app.py``; see ``python app.py --help`` for the options."""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from hart_studio.subcommands import CommandParser

PROJECT_ROOT = Path(__file__).resolve().parent
_LAST_PORT = 65535


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the pages until interrupted.

    Returns:
        The exit code: 0 after Ctrl+C or SIGTERM, 2 when the server cannot start.
    """
    flags = _parse_flags(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # print the URL at once, also into a file or pipe
    # gradio and huggingface_hub read these on import.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # Gradio rebuilds a table of this many past events after each event.
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"
    # SIGTERM ends the program like Ctrl+C, which also removes the cache. Set SIGINT too, because a shell may start
    # background programs with SIGINT ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        from hart_studio.ui.cache import open_cache  # noqa: PLC0415 - imported after the environment is set
        from hart_studio.ui.process_limits import limit_malloc_arenas, raise_file_limit  # noqa: PLC0415

        limit_malloc_arenas()
        raise_file_limit()
        with open_cache() as cache, ExitStack() as closing:
            os.environ["GRADIO_TEMP_DIR"] = str(cache)
            return _serve(flags, cache, closing)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        print(f"app.py: cannot read or write: {error}", file=sys.stderr)  # noqa: T201
        return 2


def _parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="app.py",
        description="Start the HART Studio web app.",
        example="python app.py --port 7860",
    )
    on_spaces = bool(os.environ.get("SPACE_ID"))
    parser.add_argument(
        "--host",
        default="0.0.0.0" if on_spaces else "127.0.0.1",  # noqa: S104 - a Space is public
        help="address to listen on (default: 127.0.0.1, on Hugging Face Spaces 0.0.0.0)",
    )
    parser.add_argument("--port", type=_read_port, default=None, help="port (default: first free port from 7860)")
    parser.add_argument(
        "--runs-root",
        type=Path,
        default=Path(os.environ.get("HART_STUDIO_RUNS") or "runs"),
        help="folder of the runs (default: environment variable HART_STUDIO_RUNS, or runs)",
    )
    parser.add_argument(
        "--labels-root", type=Path, default=Path("labels"), help="folder of the labeling projects (default: labels)"
    )
    parser.add_argument(
        "--model",
        default=os.environ.get("HART_STUDIO_MODEL") or "built-in",
        help="preselected model: built-in, a folder, or a Hub id (default: environment variable HART_STUDIO_MODEL, or "
        "built-in)",
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="accepted host name, repeatable (default: any in a network)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-model", action="append", default=[], metavar="NAME",
        help="additional allowed model, folder or Hub id, repeatable (default: any model on a local page)",
    )  # fmt: skip
    parser.add_argument(
        "--proxy", action="append", default=[], metavar="IP",
        help="IP address of a reverse proxy whose X-Forwarded-Proto is trusted, repeatable (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--trust-forwarded-for", action="store_true",
        help="apply limits per client address from X-Forwarded-For of the --proxy, which must set that header itself "
        "(nginx: proxy_set_header X-Forwarded-For $remote_addr;); default: all clients of a proxy share the limits",
    )  # fmt: skip
    parser.add_argument(
        "--without-login", action="store_true",
        help="disable the login (default: a page in a network needs HART_STUDIO_USER and HART_STUDIO_PASSWORD)",
    )  # fmt: skip
    parser.add_argument(
        "--mcp", action="store_true",
        help="serve the MCP tools ask, locate and verify at /mcp; needs a token in HART_STUDIO_MCP_TOKEN",
    )  # fmt: skip
    parser.add_argument(
        "--cache-mb", type=int, default=2048, metavar="MB",
        help="size limit of uploads and served copies; the oldest are removed (default: 2048)",
    )  # fmt: skip
    parser.add_argument("--share", action="store_true", help="also create a public gradio.live link")
    return parser.parse_args(argv)


def _read_port(text: str) -> int:
    """Parse a port number."""
    if not (text.isascii() and text.isdecimal()) or int(text[:6]) > _LAST_PORT:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to {_LAST_PORT}, got {text[:20]!r}")
    return int(text)


def _serve(flags: argparse.Namespace, cache: Path, closing: ExitStack) -> int:
    """Build the pages and serve until the server stops; cleanup is registered in ``closing``."""
    from hart_studio.errors import InputError  # noqa: PLC0415 - imported after the environment is set
    from hart_studio.labeling.project_lifecycle import purge_trash  # noqa: PLC0415
    from hart_studio.ui.api.ask import AskService  # noqa: PLC0415
    from hart_studio.ui.api.labels import LabelApi  # noqa: PLC0415
    from hart_studio.ui.api.launch import RunLauncher  # noqa: PLC0415
    from hart_studio.ui.app import build_app, launch_options  # noqa: PLC0415
    from hart_studio.ui.cache import CacheCleaner, open_cache  # noqa: PLC0415
    from hart_studio.ui.mcp.endpoint import find_server  # noqa: PLC0415
    from hart_studio.ui.mcp.tools import Toolbox  # noqa: PLC0415
    from hart_studio.ui.pages.examples import load_examples  # noqa: PLC0415
    from hart_studio.ui.security.access import load_auth_config, load_permissions  # noqa: PLC0415
    from hart_studio.ui.security.model_allowlist import (  # noqa: PLC0415
        build_allowlist,
        check_start_model,
        offered_models,
        operator_models,
        parse_added_models,
    )
    from hart_studio.ui.security.proxy_headers import load_proxy_config  # noqa: PLC0415
    from hart_studio.ui.spaces.space import create_space_services  # noqa: PLC0415

    try:
        access = load_auth_config(
            flags.host,
            os.environ,
            names=flags.allow_host,
            is_tunneled=flags.share,
            allow_anonymous=flags.without_login,
            serves_mcp=flags.mcp,
        )
        mcp_server = find_server() if flags.mcp else None
        start_model = check_start_model(flags.model)
        # The tunnel of --share runs on this machine and sets X-Forwarded-Proto.
        proxies = flags.proxy or (["127.0.0.1"] if flags.share else [])
        proxying = load_proxy_config(proxies, os.environ, sets_client=flags.trust_forwarded_for)
    except InputError as error:
        print(f"app.py: {error}", file=sys.stderr)  # noqa: T201 - this is the command line
        return 2
    permissions = load_permissions(access.profile)
    added = parse_added_models(access.profile, flags.allow_model, os.environ)
    models = offered_models(start_model, access.profile, added)
    allowed = build_allowlist(access.profile, models, flags.runs_root, operator_models(start_model, added))
    service = AskService(cache / "work", allowed=allowed, limits=permissions.image_limits)
    examples = load_examples(PROJECT_ROOT / "assets" / "examples", service.folder)
    launcher = RunLauncher(flags.runs_root, is_open=permissions.can_write, allowed=allowed)
    purge_trash(flags.labels_root)
    labels = LabelApi(flags.labels_root, is_open=not permissions.is_public, allowed=allowed)
    space = (
        create_space_services(closing.enter_context(open_cache()), service, examples) if permissions.is_public else None
    )
    if space is not None:
        closing.callback(space.close)
    app = build_app(service, examples, models, launcher, labels, permissions, space)
    cleaner = CacheCleaner(cache, flags.cache_mb * 2**20)
    cleaner.start()
    tools = Toolbox(service, operator_models(start_model, added))
    mcp = (mcp_server(tools), access.mcp_token) if mcp_server else None
    try:
        app.launch(
            server_name=flags.host,
            server_port=flags.port,
            share=flags.share,
            **launch_options(PROJECT_ROOT, access.hosts, access.login, mcp, cleaner, proxying),
        )
    except OSError as error:
        message = (
            f"{str(error).split('. ')[0]}. Choose another port with --port, or omit it." if flags.port else str(error)
        )
        print(f"app.py: {message}", file=sys.stderr)  # noqa: T201 - this is the command line
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

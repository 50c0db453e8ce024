"""Open HART Studio in a browser: ``python app.py``; ``python app.py --help`` says what can be chosen."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the pages until interrupted.

    Returns:
        The exit code: 0 after Ctrl+C or SIGTERM, 2 when the server cannot start.
    """
    flags = _parse_flags(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # All three are read while gradio and huggingface_hub are imported, so they come before those imports.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    cache = Path(tempfile.mkdtemp(prefix="hart-studio-"))
    os.environ["GRADIO_TEMP_DIR"] = str(cache)
    # A service manager's stop ends the program like Ctrl+C does, so that the cache goes too; and Ctrl+C works even
    # where a shell started the program in the background with the signal switched off.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        return _serve(flags, cache)
    except KeyboardInterrupt:
        return 0
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="app.py", description="Open HART Studio in a browser.")
    on_spaces = bool(os.environ.get("SPACE_ID"))
    parser.add_argument(
        "--host",
        default="0.0.0.0" if on_spaces else "127.0.0.1",  # noqa: S104 - a Space is reached from outside, by design
        help="address to listen on (default: this machine only; on Hugging Face Spaces all addresses)",
    )
    parser.add_argument("--port", type=int, default=None, help="port (default: the first free one from 7860)")
    parser.add_argument("--runs-root", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument(
        "--labels-root", type=Path, default=Path("labels"), help="folder of the labeling projects (default: labels)"
    )
    parser.add_argument(
        "--model", default="built-in", help="model chosen at the start: built-in, a folder, or a hub id"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="host name under which the page is reached; repeat (default: on a network any)",
    )  # fmt: skip
    parser.add_argument(
        "--without-login", action="store_true",
        help="let everybody in who reaches the page; else a network needs HART_STUDIO_USER and HART_STUDIO_PASSWORD",
    )  # fmt: skip
    parser.add_argument("--share", action="store_true", help="also open a public link through gradio.live")
    return parser.parse_args(argv)


def _serve(flags: argparse.Namespace, cache: Path) -> int:
    """Build the pages and block until the server stops."""
    from hart_studio.errors import InputError  # noqa: PLC0415 - see main: the environment comes first
    from hart_studio.ui.access import find_access  # noqa: PLC0415
    from hart_studio.ui.app import build_app, launch_options  # noqa: PLC0415
    from hart_studio.ui.examples import load_examples  # noqa: PLC0415
    from hart_studio.ui.label_desk import LabelDesk  # noqa: PLC0415
    from hart_studio.ui.launch_desk import LaunchDesk, may_train  # noqa: PLC0415
    from hart_studio.ui.services import AskService, offered_models  # noqa: PLC0415

    try:
        access = find_access(
            flags.host,
            os.environ,
            names=flags.allow_host,
            is_tunnelled=flags.share,
            lets_everybody_in=flags.without_login,
        )
    except InputError as error:
        print(f"app.py: {error}", file=sys.stderr)  # noqa: T201 - this is the command line
        return 2
    service = AskService(cache / "work")
    examples = load_examples(PROJECT_ROOT / "assets" / "examples", service.folder)
    desk = LaunchDesk(flags.runs_root, is_open=may_train())
    labels = LabelDesk(flags.labels_root, is_open=may_train())
    app = build_app(service, examples, offered_models(flags.model), desk, labels)
    try:
        app.launch(
            server_name=flags.host,
            server_port=flags.port,
            share=flags.share,
            **launch_options(PROJECT_ROOT, access.hosts, access.login),
        )
    except OSError as error:
        print(f"app.py: {error}", file=sys.stderr)  # noqa: T201 - this is the command line
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

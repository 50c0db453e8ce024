"""Label Studio ML backend: takes tasks, returns verified boxes, with Label Studio's protocol.

A prediction equals the proposal of a labeling run (``self_verify.propose``). If the user has just drawn boxes, these
are verified instead (``verify_drawn_boxes``). An error of one task is reported for that task; the other tasks are
processed. Only servers call this API, so requests from a browser page are rejected, whatever their origin.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hart_studio.errors import InputError
from hart_studio.imaging import SourceImage
from hart_studio.labeling.calibration import Calibration
from hart_studio.labeling.calibration_lookup import score_label
from hart_studio.labeling.formats.label_studio import (
    VERIFIED,
    WRONG_BOX,
    make_answer,
    make_region,
    make_verdict,
)
from hart_studio.labeling.ml_backend.images import ImageLoader
from hart_studio.labeling.ml_backend.tasks import (
    LabelConfig,
    OpenedTask,
    describe_error,
    read_label_config,
    read_task,
    to_drawn_box,
)
from hart_studio.labeling.records import BoxCheck
from hart_studio.labeling.self_verify import Proposal, ProposalSettings, propose_safely, verify_drawn_boxes
from hart_studio.models.chat import ChatModel

SOFT_TIMEOUT_SECONDS: Final = 80.0
"""Time limit of a request, seconds. Label Studio times out after 100 s, gateways after 90 s. Project default."""
MAX_BODY_BYTES: Final = 96 << 20
"""Maximum request size, bytes; a task may contain a base64 image. Project default."""
MAX_REQUESTS: Final = 32
"""Maximum concurrent requests, including queued ones. Project default."""
BATCH: Final = 8
"""Tasks per batch, whose images are in memory together. Project default."""
MAX_REMEMBERED: Final = 1024
"""Cached evidence of questions, for boxes that are drawn later. Project default."""

_log = logging.getLogger(__name__)

Prediction = dict[str, Any]
"""Response for one task."""


class HartBackend:
    """Answers Label Studio requests with one model, one request at a time.

    Attributes:
        version: Model name shown in Label Studio.
    """

    def __init__(
        self,
        model: ChatModel,
        version: str,
        loader: ImageLoader,
        settings: ProposalSettings,
        calibration: Calibration | None = None,
        soft_timeout: float = SOFT_TIMEOUT_SECONDS,
    ) -> None:
        """Create the backend.

        Args:
            model: The model.
            version: Name of the model.
            loader: Opens allowed images.
            settings: Settings of the proposals.
            calibration: Calibration of the model; predictions outside its domain have no score.
            soft_timeout: Time limit of a request, seconds.
        """
        self.version = version
        self._model, self._loader, self._settings, self._calibration = model, loader, settings, calibration
        self._soft_timeout = soft_timeout
        self._lock = threading.Lock()
        self._seconds_per_task: float | None = None
        self._checks: OrderedDict[str, BoxCheck] = OrderedDict()

    def setup(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Check whether the backend supports a project.

        Raises:
            InputError: If it does not support the labeling configuration.
        """
        read_label_config(payload.get("schema", payload.get("label_config")))
        return {"model_version": self.version}

    def predict(self, payload: dict[str, Any], arrived: float) -> dict[str, list[Prediction]]:
        """Predict tasks in order. Other requests wait.

        Args:
            payload: ``tasks``, ``label_config`` and ``params`` of the protocol.
            arrived: Arrival time of the request, ``time.monotonic``.

        Raises:
            InputError: If the request is invalid.
        """
        config = read_label_config(payload.get("label_config", payload.get("schema")))
        tasks = payload.get("tasks")
        if not isinstance(tasks, list):
            raise InputError(f"expected a list in 'tasks', got {type(tasks).__name__}")
        drawn = config.get_drawn_regions(payload)
        if drawn and len(tasks) != 1:
            raise InputError(f"Interactive requests must have one task, got {len(tasks)}. Send the tasks one by one.")
        deadline = arrived + self._soft_timeout
        results: list[Prediction] = []
        if self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            try:
                if drawn:
                    asked = read_task(config, tasks[0], self._loader, {}, deadline)
                    results = [self._check(config, asked, drawn)]
                else:
                    results = self._propose_until(config, tasks, deadline)
            finally:
                self._lock.release()
        late = f"the time limit of {self._soft_timeout:g} s was reached before this task. Send fewer tasks at once."
        results += [self._no_prediction(late) for _ in tasks[len(results) :]]
        failed = [
            (task, result["meta"]["reason"]) for task, result in zip(tasks, results, strict=True) if _failed(result)
        ]
        for task, reason in failed:
            _log.warning("task %r: %s", str(task.get("id") if isinstance(task, dict) else None)[:40], reason)
        if failed:
            _log.warning("%d of %d tasks are without a prediction", len(failed), len(tasks))
        return {"results": results}

    def _propose_until(self, config: LabelConfig, tasks: Sequence[Any], deadline: float) -> list[Prediction]:
        """Process tasks in batches that fit into memory and, at the current speed, into the remaining time."""
        results: list[Prediction] = []
        while len(results) < len(tasks) and (left := deadline - time.monotonic()) > 0:
            fitting = BATCH if self._seconds_per_task is None else int(min(BATCH, left / self._seconds_per_task))
            chunk = tasks[len(results) :][: fitting if results else max(1, fitting)]
            if not chunk:
                break
            started = time.monotonic()
            opened: dict[str, SourceImage] = {}  # an image of several tasks is opened once
            results += self._propose(
                config, [read_task(config, task, self._loader, opened, deadline) for task in chunk]
            )
            self._seconds_per_task = max((time.monotonic() - started) / len(chunk), 1e-6)
        return results

    def _propose(self, config: LabelConfig, asked: Sequence[OpenedTask | str]) -> list[Prediction]:
        good = [each for each in asked if isinstance(each, OpenedTask)]
        images = {each.sample.image: each.image for each in good}
        samples = [each.sample for each in good]
        proposals = iter(
            propose_safely(self._model, samples, self._settings, open_image=images.__getitem__, describe=describe_error)
            if good
            else []
        )
        return [
            self._answer(config, each, next(proposals)) if isinstance(each, OpenedTask) else self._no_prediction(each)
            for each in asked
        ]

    def _answer(self, config: LabelConfig, asked: OpenedTask, proposal: Proposal) -> Prediction:
        check = proposal.check
        if check is None:
            return self._no_prediction(proposal.failure)
        self._remember(asked.identity, check)
        # A task has no dataset name, so its image must show the domain.
        domain = asked.image.read_domain() if self._calibration else ""
        score = score_label(self._calibration, asked.sample, domain, proposal, self._settings).score
        result = []
        for number, box in enumerate(proposal.boxes, start=1):
            label = config.choose_label(box.label)
            scored = box.model_copy(update={"score": score})
            region_id = f"{asked.identity}_{number}"
            region = make_region(region_id, scored, asked.image.wh, label, check.crops_answer, config.controls)
            result.append({**region, "readonly": False})
        if config.controls.answer and check.crops_answer is not None:
            result.append(make_answer(f"{asked.identity}_answer", check.crops_answer, config.controls))
        prediction: Prediction = {"model_version": self.version, "result": result}
        return prediction if score is None else {**prediction, "score": score}

    def _check(self, config: LabelConfig, asked: OpenedTask | str, drawn: Sequence[Any]) -> Prediction:
        """Verify drawn boxes: returns only marks, because the boxes exist already."""
        if isinstance(asked, str):
            return self._no_prediction(asked)
        try:
            boxes = [to_drawn_box(region, asked.image) for region in drawn]
            before = self._checks.get(asked.identity)
            loop = self._settings.loop
            check, failure = verify_drawn_boxes(self._model, asked.sample, boxes, loop, before, lambda _: asked.image)
        except Exception as error:  # a library may raise anything for a task; the error is reported for it
            return self._no_prediction(describe_error(error))
        if failure:
            return self._no_prediction(failure)
        verdict = {True: VERIFIED, False: WRONG_BOX, None: ""}[check.crops_correct]
        result = []
        if config.controls.answer and check.crops_answer is not None:
            result.append(make_answer(f"{asked.identity}_checked_answer", check.crops_answer, config.controls))
        if config.controls.verdict and verdict:
            result.append(make_verdict(f"{asked.identity}_checked_verdict", verdict, config.controls))
        unknown = "no verdict: the task has no known answer and no earlier prediction"
        text = [f"crop answer: {check.crops_answer or 'none'}", f"verdict: {verdict}" if verdict else unknown]
        return {"model_version": self.version, "result": result, "meta": {"text": text}}

    def _remember(self, identity: str, check: BoxCheck) -> None:
        self._checks[identity] = check
        self._checks.move_to_end(identity)
        while len(self._checks) > MAX_REMEMBERED:
            self._checks.popitem(last=False)

    def _no_prediction(self, reason: str) -> Prediction:
        return {"model_version": self.version, "result": [], "meta": {"reason": reason}}


def _failed(result: Prediction) -> bool:
    return "reason" in result.get("meta", {})


Credentials = tuple[str, str]
"""User and password of basic authentication."""


def read_credentials(environ: Mapping[str, str], host: str) -> Credentials | None:
    """Credentials that clients must send; None = no authentication, on this machine only.

    Args:
        environ: Environment with both or none of ``BASIC_AUTH_USER`` and ``BASIC_AUTH_PASS``.
        host: Address to listen on.

    Raises:
        InputError: If only one is set, or none for a host that other machines can reach.
    """
    user, password = environ.get("BASIC_AUTH_USER", ""), environ.get("BASIC_AUTH_PASS", "")
    if bool(user) != bool(password):
        raise InputError("Only one of BASIC_AUTH_USER and BASIC_AUTH_PASS is set. Set both or none.")
    if user:
        return user, password
    try:
        is_near = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_near = False
    if not is_near:
        raise InputError(
            f"A password is required for {host!r}, which other machines can reach. Set BASIC_AUTH_USER and "
            "BASIC_AUTH_PASS, or serve on 127.0.0.1."
        )
    return None


def build_app(
    backend: HartBackend, credentials: Credentials | None = None, max_body_bytes: int = MAX_BODY_BYTES
) -> Starlette:
    """Create the web application.

    Args:
        backend: Backend that answers the requests.
        credentials: Credentials that clients must send; None = no authentication.
        max_body_bytes: Maximum request size, bytes.
    """

    def posted(handle: Callable[[dict[str, Any], float], Any], status: int = 200) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            arrived = time.monotonic()
            body = await _read_body(request, max_body_bytes)
            return _Json(await run_in_threadpool(lambda: handle(_read_object(body), arrived)), status)

        return endpoint

    async def health(_: Request) -> Response:
        return _Json({"status": "UP", "model_class": "HartROI"})

    async def metrics(_: Request) -> Response:
        return _Json({})

    async def refuse(_: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return _Json({"error": error.detail}, error.status_code)
        return _Json({"error": str(error)}, 400)

    routes = [
        Route("/", health),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/setup", posted(lambda payload, _: backend.setup(payload)), methods=["POST"]),
        Route("/predict", posted(backend.predict), methods=["POST"]),
        Route("/webhook", posted(lambda *_: {"result": {}, "status": "ok"}, 201), methods=["POST"]),
    ]
    guard = Middleware(_RequestGuard, credentials=credentials)
    return Starlette(routes=routes, middleware=[guard], exception_handlers={InputError: refuse, HTTPException: refuse})


def serve(app: Starlette, host: str, port: int) -> None:
    """Serve until interrupted."""
    uvicorn.run(app, host=host, port=port, limit_concurrency=MAX_REQUESTS, server_header=False, log_level="info")


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        """Encode as ASCII: a question may contain a lone surrogate, which UTF-8 cannot encode."""
        return json.dumps(content, allow_nan=False).encode("ascii")


class _RequestGuard:
    """ASGI middleware: rejects browser requests (403) and unauthenticated requests (401)."""

    def __init__(self, app: ASGIApp, credentials: Credentials | None) -> None:
        self._app = app
        self._expected = None if credentials is None else ":".join(credentials).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if "origin" in headers:
                await _Json({"error": "Requests from browser pages are rejected."}, 403)(scope, receive, send)
                return
            if self._expected is not None and not self._is_known(headers.get("authorization", "")):
                refusal = {"error": "Wrong user or password. Set them in the model settings of Label Studio."}
                challenge = {"www-authenticate": 'Basic realm="HART"'}
                await _Json(refusal, 401, challenge)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_known(self, header: str) -> bool:
        kind, _, value = header.partition(" ")
        try:
            given = base64.b64decode(value.strip(), validate=True)
        except ValueError:
            return False
        return kind.lower() == "basic" and secrets.compare_digest(given, self._expected or b"")


async def _read_body(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > max_bytes:
                raise HTTPException(413, f"Request larger than {max_bytes:,} bytes. Send fewer tasks at once.")
    except ClientDisconnect as error:
        raise InputError("Incomplete request. Send it again.") from error
    return bytes(body)


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError("The request is not valid JSON. Send a JSON object.") from error
    if not isinstance(payload, dict):
        raise InputError(f"expected a JSON object, got {type(payload).__name__}")
    return payload

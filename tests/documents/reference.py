"""Write ``docs/reference`` from the sources: ``make reference``."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hart_studio.runs.overrides import list_overrides
from hart_studio.runs.presets import DEFAULT_PRESET, PRESETS
from tests.documents import sources
from tests.documents.pages import ROOT

FOLDER = ROOT / "docs" / "reference"
CONFIGS = (
    (
        "hart_studio.runs.config.RunConfig",
        "A training run",
        "`python -m hart_studio.training --set section.name=value`",
    ),
    (
        "hart_studio.evaluation.config.EvaluationConfig",
        "An evaluation",
        "`python -m hart_studio.evaluation`, by its flags",
    ),
    ("hart_studio.labeling.job.LabelingConfig", "A labeling run", "`python -m hart_studio.labeling run`, by its flags"),
)
"""(class, title, where its values come from) of what decides over a job."""
MODULES = (
    ("Records and images", ("records", "imaging", "scoring", "errors")),
    ("Models", ("models.chat", "models.model_loading", "models.served_settings")),
    ("The closed loop", ("pipeline.settings", "pipeline.closed_loop", "pipeline.inference", "pipeline.verification")),
    ("Data", ("data.sources", "data.benchmarks.catalog")),
    (
        "Labeling",
        (
            "labeling.project",
            "labeling.project_creation",
            "labeling.project_lifecycle",
            "labeling.importing",
            "labeling.job",
            "labeling.exporting",
        ),
    ),
    ("Evaluation", ("evaluation.config", "evaluation.job", "evaluation.results", "evaluation.report")),
    ("Algorithms", ("algorithms.methods", "algorithms.credit", "algorithms.losses")),
    ("Training", ("runs.overrides", "training.train", "training.hart_trainer", "training.merging")),
)
"""What other programs import, below ``hart_studio``; it is told in this order."""
_MADE = "*Made by `make reference` from the sources; a test fails when it is stale.*"
_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "min_length": "≥ {} long", "max_length": "≤ {} long"}


def main() -> int:
    """Write the pages; returns 0."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")
    return 0


def pages() -> dict[str, str]:
    """Name of the file -> what should stand in it."""
    return {"configuration.md": _write(configuration()), "api.md": _write(api())}


def configuration() -> Iterator[str]:
    """Lines of the page of all settings."""
    yield from ("# Settings", "", _MADE, "")
    yield from sources.wrap(
        "Every setting of a job with its default and its bounds. An unknown name is an error, and so is a value out of "
        "its bounds. A default of `None` stands for the choice that the text names."
    )
    yield ""
    shown: set[type] = set()
    for place, title, origin in CONFIGS:
        module, _, name = place.rpartition(".")
        yield from (f"## {title}", "", *sources.wrap(f"`{place}`: {origin}."), "")
        yield from _sections(getattr(importlib.import_module(module), name), "", shown)
    yield from ("## Presets", "", "What `--preset NAME` changes in the defaults of a training run.", "")
    for name, preset in PRESETS.items():
        changes = list_overrides(preset.config, PRESETS[DEFAULT_PRESET].config.__class__())
        default = ", where a run without settings begins" if name == DEFAULT_PRESET else ""
        yield from (f"### {name}", "", f"{preset.title}{default}.", "", "```text", *changes, "```", "")


def api() -> Iterator[str]:
    """Lines of the page of the library."""
    yield from ("# The library", "", _MADE, "")
    yield from sources.wrap(
        "The modules that other programs import, with what they raise. Names that are not here may change without "
        "notice. Settings are in [configuration.md](configuration.md), how the parts fit in "
        "[ARCHITECTURE.md](../../ARCHITECTURE.md)."
    )
    yield ""
    for title, modules in MODULES:
        yield from (f"## {title}", "")
        for module in modules:
            full = f"hart_studio.{module}"
            told = sources.to_markdown(sources.ast.get_docstring(sources.parse(full)) or "")
            yield from (f"### {full}", "", *told)
            for entry in sources.entries(full):
                yield from _entry(entry)


def _write(lines: Iterator[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _entry(entry: sources.Entry) -> Iterator[str]:
    if not entry.signature:
        yield from (*sources.wrap(f"**`{entry.title}`**: {entry.doc}"), "")
        return
    yield from (f"#### {entry.title}", "", "```py", entry.signature, "```", "")
    yield from sources.to_markdown(entry.doc)
    if entry.fields:
        yield from ("| field | type | default | meaning |", "| --- | --- | --- | --- |")
        for name, kind, default, text in entry.fields:
            yield _row(f"`{name}`", _code(kind), _code(_brief(default)), text.replace("``", "`"))
        yield ""
    for method in entry.methods:
        yield from ("```py", method.signature, "```", "", *sources.to_markdown(method.doc))


def _sections(kind: type[BaseModel], prefix: str, shown: set[type]) -> Iterator[str]:
    """The table of a class, then those of the classes within."""
    shown.add(kind)
    (node,) = (
        each
        for each in sources.parse(kind.__module__).body
        if isinstance(each, sources.ast.ClassDef) and each.name == kind.__name__
    )
    told = {name: (written, text) for name, written, _, text in sources.attributes(node)}
    inner: list[tuple[str, type[BaseModel]]] = []
    rows = []
    for name, field in kind.model_fields.items():
        part = _model_in(field.annotation)
        written, text = told.get(name, (str(field.annotation), field.description or ""))
        written = _spell_out(written, kind.__module__)
        if part is not None:
            inner.append((f"{prefix}{name}.", part))
            text += f" See `{part.__name__}`."
        rows.append(
            _row(
                f"`{prefix}{name}`",
                _code(written),
                _code(_default(field, part)),
                _bounds(field),
                text.replace("``", "`"),
            )
        )
    yield from (f"### {kind.__name__}", "", *sources.wrap(sources.ast.get_docstring(node).split("\n\n")[0]), "")
    yield from ("| name | type | default | range | meaning |", "| --- | --- | --- | --- | --- |", *rows, "")
    for part_prefix, part in inner:
        if part not in shown:
            yield from _sections(part, part_prefix, shown)


def _spell_out(annotation: str, module: str) -> str:
    """A type with the choices of its ``Literal`` types in place of their names."""
    for each in (*sources.parse(module).body, *sources.parse("hart_studio.records").body):
        if isinstance(each, sources.ast.Assign) and len(each.targets) == 1:
            value = sources.ast.unparse(each.value)
            if value.startswith("Literal["):
                annotation = re.sub(
                    rf"\b{sources.ast.unparse(each.targets[0])}\b", lambda _, value=value: value, annotation
                )
    return re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace(", ", " | "), annotation)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The class of settings that a field holds, also where it may be missing."""
    for each in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _default(field: FieldInfo, part: type[BaseModel] | None) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return ""
    if part is not None and value is not None:
        own = value.model_dump(exclude_defaults=True)
        return ", ".join(f"{name}={each!r}" for name, each in own.items())
    return repr(value)


def _bounds(field: FieldInfo) -> str:
    metadata = list(field.metadata)
    for each in getattr(field.annotation, "__args__", ()):
        metadata += getattr(each, "__metadata__", ())
    found = []
    for each in metadata:
        for constraint in [each, *getattr(each, "metadata", ())]:
            for name, text in _BOUNDS.items():
                value = getattr(constraint, name, None)
                if value is not None:
                    found.append(text.format(f"{value:,}" if isinstance(value, int) else value))
    return ", ".join(dict.fromkeys(found))


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _brief(default: str) -> str:
    """A default without the settings of its field."""
    found = re.match(r"(?:dataclasses\.)?[Ff]ield\((?:default(?:_factory)?=)?(.*?)(?:, \w+=.*)?\)$", default)
    return "" if default == "..." else found[1] if found else default


if __name__ == "__main__":
    sys.exit(main())

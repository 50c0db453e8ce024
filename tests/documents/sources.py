"""Read signatures and docstrings of the public names of a module, without importing it."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.documents.pages import ROOT

WIDTH = 138
_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$")
_ENTRY = re.compile(r"^([\w*][\w.*, ]*?)(?: \([^)]*\))?: (.*)$")
_CONSTRUCTOR = "__init__"


@dataclass(frozen=True)
class Entry:
    """A public function, class, method or constant.

    Attributes:
        title: Name; for a method prefixed with its class.
        signature: Signature as in the source, without ``self``; empty for a constant.
        doc: Cleaned docstring.
        fields: For a class: (name, type, default, text) of each documented attribute.
        methods: For a class: its public methods.
    """

    title: str
    signature: str
    doc: str
    fields: tuple[tuple[str, str, str, str], ...] = ()
    methods: tuple[Entry, ...] = ()


def parse(module: str) -> ast.Module:
    """Parse a module, given its dotted name."""
    place = ROOT.joinpath(*module.split("."))
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def entries(module: str) -> list[Entry]:
    """Public names that a module defines, in source order."""
    tree = parse(module)
    found = []
    for node, doc in _with_docs(tree.body):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            found.append(_function(node) if isinstance(node, ast.FunctionDef) else _class(node))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and doc:
            name = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            if not name.startswith("_"):
                found.append(Entry(name, "", doc))
    return found


def attributes(node: ast.ClassDef) -> list[tuple[str, str, str, str]]:
    """(name, type, default, text) of the annotated attributes of a class; the text may be empty."""
    documented = dict(_listed(ast.get_docstring(node) or "", "Attributes"))
    found = []
    for each, doc in _with_docs(node.body):
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.target.id[0] != "_":
            name = each.target.id
            default = ast.unparse(each.value) if each.value is not None else ""
            found.append((name, ast.unparse(each.annotation), default, doc or documented.get(name, "")))
    return found


def to_markdown(doc: str) -> Iterator[str]:
    """Convert a Google-style docstring to Markdown lines."""
    paragraph: list[str] = []
    lines = doc.splitlines()
    index = 0
    while index < len(lines):
        line, section = lines[index].strip(), _SECTION.match(lines[index])
        is_literal = line.endswith("::")
        index += 1
        if section is None and line:
            paragraph += [line[:-1]] if is_literal and line != "::" else [line.removesuffix("::")]
        if not (section or is_literal):
            if not line and paragraph:
                yield from (*wrap(" ".join(paragraph)), "")
                paragraph = []
            continue
        block = []
        while index < len(lines) and (not lines[index].strip() or lines[index].startswith(" ")):
            block.append(lines[index])
            index += 1
        if section is None:
            yield from (*wrap(" ".join(paragraph)), "")
            yield from ("```text", textwrap.dedent("\n".join(block)).strip(), "```", "")
            paragraph = []
            continue
        yield f"{section[1]}:"
        yield ""
        for name, text in _items(block):
            yield from wrap(f"- `{name}`: {text}" if name else f"- {text}", "  ")
        yield ""
    if paragraph:
        yield from (*wrap(" ".join(paragraph)), "")


def wrap(text: str, indent: str = "") -> list[str]:
    """Wrap a Markdown paragraph; replace double backticks by single ones."""
    plain = text.replace("``", "`")
    return textwrap.wrap(plain, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _with_docs(body: Iterable[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    """Statements, each with the docstring that follows it."""
    statements = list(body)
    for index, node in enumerate(statements):
        after = statements[index + 1] if index + 1 < len(statements) else None
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        text = after.value.value if is_text else ""
        yield node, " ".join(inspect.cleandoc(text).split()) if isinstance(text, str) else ""


def _function(node: ast.FunctionDef, owner: str = "") -> Entry:
    arguments = ast.unparse(node.args)
    if owner:
        arguments = re.sub(r"^(?:self|cls)(?:, )?", "", arguments)
    gives = f" -> {ast.unparse(node.returns)}" if node.returns is not None and node.name != _CONSTRUCTOR else ""
    name = f"{owner}.{node.name}" if owner else node.name
    is_property = any(ast.unparse(each) in ("property", "cached_property") for each in node.decorator_list)
    signature = f"{node.name}{gives.replace(' ->', ':')}" if is_property else f"{node.name}({arguments}){gives}"
    return Entry(name, signature, ast.get_docstring(node) or "")


def _class(node: ast.ClassDef) -> Entry:
    methods = [
        _function(each, node.name)
        for each in node.body
        if isinstance(each, ast.FunctionDef) and (not each.name.startswith("_") or each.name == _CONSTRUCTOR)
    ]
    made = next((method for method in methods if method.title.endswith(_CONSTRUCTOR)), None)
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    signature = (
        made.signature.replace(_CONSTRUCTOR, node.name, 1) if made else f"class {node.name}({bases})".removesuffix("()")
    )
    doc = ast.get_docstring(node) or ""
    if made and made.doc:
        doc += "\n\n" + made.doc.partition("\n\n")[2]
    fields = tuple(attributes(node))
    if fields:  # they are listed in a table below
        doc = re.sub(r"\n\nAttributes:\n(?:(?: .*)?\n?)*", "\n\n", doc + "\n")
    return Entry(node.name, signature, doc.strip(), fields, tuple(m for m in methods if m is not made and m.doc))


def _listed(doc: str, section: str) -> Iterator[tuple[str, str]]:
    found = re.search(rf"^{section}:\n((?:(?: .*)?\n?)*)", doc, re.MULTILINE)
    return _items(found[1].splitlines()) if found else iter(())


def _items(block: list[str]) -> Iterator[tuple[str, str]]:
    """(name, text) of each entry of a section; the name is empty if there is none."""
    for entry in re.split(r"\n(?! )", textwrap.dedent("\n".join(block)).strip()):
        text = " ".join(entry.split())
        named = _ENTRY.match(text)
        if text:
            yield (named[1], named[2]) if named else ("", text)

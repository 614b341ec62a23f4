"""Put the modules of the page together into one script, and everything into one HTML text.

A module is a plain ES module of this package's folder ``page``: imports of names from files beside
it, then code, in which what is exported begins with ``export``. Each becomes a function of its own
that returns its exports, so that names of different modules never meet.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([a-z_]+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:const|class|function\*?|async function) (\w+))", re.MULTILINE)
_ODD = re.compile(r"^(?:import|export)\b.*$", re.MULTILINE)

FIRST = "main"
"""The module that runs when the page is opened."""


@cache
def page_file(name: str) -> str:
    """Return the text of a file of the page."""
    return (files("sra_fast.report.viewer") / "page" / name).read_text(encoding="utf-8")


def module_order(first: str = FIRST) -> list[str]:
    """Return the names of the modules that ``first`` needs and itself, each after those it needs.

    Raises:
        ValueError: modules import one another in a circle.
    """
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(f"modules import one another: {' → '.join((*above, name))}")
        if name not in order:
            for _, needed in _IMPORT.findall(page_file(f"{name}.js")):
                visit(needed, (*above, name))
            order.append(name)

    visit(first, ())
    return order


def script(first: str = FIRST) -> str:
    """Return one script that does what the module ``first`` does with all that it imports.

    Raises:
        ValueError: a module imports what is not there, or in a form that is not known here.
    """
    exported: dict[str, list[str]] = {}
    parts = ['"use strict";', "const modules = {};"]
    for name in module_order(first):
        source = page_file(f"{name}.js")
        for names, needed in _IMPORT.findall(source):
            for wanted in re.findall(r"\w+", names):
                if wanted not in exported[needed]:
                    raise ValueError(f"{name}.js: {needed}.js exports no {wanted}")
        exported[name] = _EXPORT.findall(source)
        body = _IMPORT.sub(r"const {\1} = modules.\2;", _EXPORT.sub("", source))
        if odd := _ODD.search(body):
            raise ValueError(f"{name}.js: {odd[0]!r} is not in a form that can be put together")
        exports = ", ".join(exported[name])
        parts.append(f"modules.{name} = (() => {{\n{body}\nreturn {{ {exports} }};\n}})();")
    return "\n".join(parts)


def page_head_and_foot(title: str) -> tuple[str, str]:
    """Return what stands before and after the data in the page.

    The page's policy allows this very script and style, and neither network nor any other code.
    """
    style, code = page_file("viewer.css"), script()
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"script-src '{_digest(code)}'; style-src '{_digest(style)}'"
    )
    head, foot = page_file("viewer.html").split("<!-- data -->")
    head = head.replace("<!-- policy -->", policy).replace("/* style */", style)
    return head.replace("<!-- title -->", _escaped(title)), foot.replace("/* script */", code)


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _escaped(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()  # half characters cannot be written
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

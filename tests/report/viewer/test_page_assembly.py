"""The modules of the page become one script, and what cannot be put together is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sra_fast.report.viewer import page_assembly

PAGE = Path(page_assembly.__file__).parent / "page"
MODULES = sorted(file.stem for file in PAGE.glob("*.js"))


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return modules, by file name, that take the place of the page's."""
    files: dict[str, str] = {}
    monkeypatch.setattr(page_assembly, "page_file", files.__getitem__)
    return files


def test_every_module_is_in_the_page_after_those_it_needs() -> None:
    order = page_assembly.module_order()
    assert sorted(order) == MODULES
    for place, name in enumerate(order):
        for _, needed in re.findall(r'import \{([^}]*)\} from "\./(\w+)\.js"', page_of(name)):
            assert order.index(needed) < place


def page_of(name: str) -> str:
    return (PAGE / f"{name}.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_can_be_read_in_one_sitting(name: str) -> None:
    text = page_of(name)
    assert text.startswith("// ")
    assert len(text.splitlines()) <= 250


@pytest.mark.parametrize("name", MODULES)
def test_texts_reach_the_page_as_texts_only(name: str) -> None:
    """No module hands a text to the parser of HTML, or runs it as code."""
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bFunction\(|DOMParser"
        r"|createContextualFragment|srcdoc|setHTML",
        page_of(name),
    )


def test_names_of_different_modules_never_meet(modules: dict[str, str]) -> None:
    modules["main.js"] = 'import { f } from "./part.js";\nconst g = 1;\nexport const h = f() + g;'
    modules["part.js"] = "const g = 2;\nexport function f() { return g; }"
    script = page_assembly.script()
    assert script.index("modules.part =") < script.index("modules.main =")
    assert "const { f } = modules.part;" in script
    assert "return { h };" in script
    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)


@pytest.mark.parametrize(
    ("main", "message"),
    [
        ('import { g } from "./part.js";', "part.js exports no g"),
        ('import part from "./part.js";', "cannot be|not in a form"),
        ("export default 1;", "not in a form"),
        ('import { f } from "./part.js";\nexport { f };', "not in a form"),
    ],
)
def test_what_cannot_be_put_together_is_refused(
    modules: dict[str, str], main: str, message: str
) -> None:
    modules |= {"main.js": main, "part.js": "export function f() {}"}
    with pytest.raises(ValueError, match=message):
        page_assembly.script()


def test_modules_in_a_circle_are_refused(modules: dict[str, str]) -> None:
    modules["main.js"] = 'import { f } from "./part.js";\nexport const g = 1;'
    modules["part.js"] = 'import { g } from "./main.js";\nexport const f = 1;'
    with pytest.raises(ValueError, match="main → part → main"):
        page_assembly.script()


def test_the_help_names_every_key() -> None:
    keys = re.findall(r'^ {4}(?:"([^"]+)"|(\w+)):', page_of("keyboard"), re.MULTILINE)
    help_text = re.search(r"<dialog.*</dialog>", (PAGE / "viewer.html").read_text("utf-8"), re.S)
    assert help_text
    signs = {"Up": "↑", "Down": "↓", "Left": "←", "Right": "→"}
    for quoted, plain in keys:
        for part in (quoted or plain).split("+"):
            key = signs.get(part.removeprefix("Arrow"), "Esc" if part == "Escape" else part)
            assert f"<kbd>{key}</kbd>" in help_text[0]

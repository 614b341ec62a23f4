"""Shows files of the repository on the site, and lets pages link to them as they lie there.

Recorded results and their pictures, the changes and the rules for contributions exist once, in the
repository. Each becomes a page or a picture of the site when it is built. Links in pages are paths
of the repository, so that they work where the repository is read, and are turned into links between
pages here. A link to anything that is not shown stays as it is, and fails the strict build.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "records/index.md",
    "training/pipeline/README.md": "records/pipeline.md",
}
"""Single files, by their path in the repository: where they stand on the site."""

RECORDS = "benchmarks/results"
"""The folder whose pages and pictures stand under records/ on the site."""

_PICTURE = re.compile(r"!\[(?P<title>[^]]*)\]\((?P<target>[^)\s]+\.png)\)")
_LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?P<after>\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the repository's files to those of the site."""
    for repository_path, site_path in _shown():
        files.append(
            File.generated(config, site_path, abs_src_path=os.fspath(ROOT / repository_path))
        )
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    site_of = dict(_shown())
    repository_of = {site: repository for repository, site in site_of.items()}
    here = page.file.src_uri
    place = posixpath.dirname(repository_of.get(here, f"docs/{here}"))

    def kept(picture: re.Match[str]) -> str:
        if (ROOT / place / picture["target"]).is_file():
            return picture[0]
        return f"*{picture['title']}: this picture is not kept in the repository.*"

    def moved(link: re.Match[str]) -> str:
        target = link["target"]
        if "://" in target:
            return link[0]
        wanted = posixpath.normpath(posixpath.join(place, target))
        if wanted in site_of:
            wanted = site_of[wanted]
        elif wanted.startswith("docs/"):
            wanted = wanted.removeprefix("docs/")
        else:
            return link[0]
        path = posixpath.relpath(wanted, posixpath.dirname(here) or ".")
        return f"{link['before']}{path}{link['anchor'] or ''}{link['after']}"

    if here.startswith("records/"):  # records name every file of their run, and few are kept
        markdown = _PICTURE.sub(kept, markdown)
    return _LINK.sub(moved, markdown)


def _shown() -> Iterator[tuple[str, str]]:
    """Return paths in the repository and on the site."""
    yield from PAGES.items()
    for file in sorted((ROOT / RECORDS).rglob("*")):
        if file.suffix in (".md", ".png"):
            inside = file.relative_to(ROOT / RECORDS).as_posix()
            yield f"{RECORDS}/{inside}", f"records/{inside}"

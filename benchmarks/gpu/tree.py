"""The library, importable from a checkout in which nothing was installed.

Installed, ``kernels/span_attention`` is ``sra_fast.kernels``. Where it is not, a tree with the same
names as an installation's is copied together, anew each time, so that what is measured is what the
checkout holds.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from pathlib import Path

KERNELS = Path("kernels", "span_attention")
INSIDE = {"kernels": KERNELS, "training": Path("training")}  # of sra_fast, and where they are kept


def importable(root: Path, folder: Path) -> Path:
    """Makes ``sra_fast`` and its kernels importable here, from the checkout at ``root``.

    Args:
        root: the checkout.
        folder: where a tree is built if one is needed; what it held of the library is replaced.

    Returns:
        What has to come first on the path of another process: ``root`` or ``folder``.

    Raises:
        ImportError: the checkout lacks something.
    """
    if _comes_from(root / KERNELS):
        return root
    build(root, folder)
    for name in [name for name in sys.modules if name.split(".")[0] == "sra_fast"]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    if not _comes_from(folder / "sra_fast" / "kernels"):
        raise ImportError("sra_fast.kernels cannot be imported from the tree that was built")
    return folder


def build(root: Path, folder: Path) -> None:
    """``folder/sra_fast`` with what belongs inside, as an installation would lay it out."""
    package = folder / "sra_fast"
    if package.exists():
        shutil.rmtree(package)
    caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "sra_fast", package, ignore=caches)
    for name, kept in INSIDE.items():
        if (root / kept).is_dir():
            shutil.copytree(root / kept, package / name, ignore=caches)


def _comes_from(folder: Path) -> bool:
    try:
        spec = importlib.util.find_spec("sra_fast.kernels")
    except ImportError:  # not even sra_fast
        return False
    if spec is None or spec.origin is None:
        return False
    return Path(spec.origin).resolve().parent == folder.resolve()

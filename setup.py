"""Packaging: three folders of the repository become one importable tree.

``kernels/span_attention`` installs as ``sra_fast.kernels`` and ``training`` as
``sra_fast.training``, so that nothing called ``kernels`` or ``training`` is ever installed at top
level, where the first would shadow the package of that name from Hugging Face.
"""

from pathlib import Path

from setuptools import find_packages, setup

PLACES = {
    "sra_fast": "sra_fast",
    "sra_fast.kernels": "kernels/span_attention",
    "sra_fast.training": "training",
}
"""Where each tree of packages is kept."""

CLI = ["typer>=0.26", "rich>=13.8", "pandas>=2", "pyarrow>=21", "matplotlib>=3.8"]
PEFT = ["peft>=0.20", "accelerate>=1.13"]
RAY = [*CLI, "ray>=2.53", "fsspec>=2025.3"]
TRAIN = [*CLI, *PEFT, "datasets>=4.7", "PyYAML>=6"]
PIPELINE = [*TRAIN, "scikit-learn>=1.5", "scipy>=1.15", "krippendorff>=0.7", "openai>=1.60"]


def packages() -> list[str]:
    """Return the names of all packages, read from the real folders and never through the links.

    In a checkout ``sra_fast/kernels`` and ``sra_fast/training`` are symbolic links, so that editors
    and type checkers see the tree that is installed; on systems without such links they are absent.
    """
    found = []
    for name, folder in PLACES.items():
        inside = find_packages(folder)
        if name == "sra_fast":
            inside = [one for one in inside if one.split(".")[0] not in ("kernels", "training")]
        found += [name, *(f"{name}.{one}" for one in inside)]
    return found


setup(
    name="sra_fast",
    version="0.1.0",
    description="Strategy Relevant Attention of chat models, computed inside the attention kernel",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=packages(),
    package_dir=PLACES,
    package_data={
        "sra_fast": ["py.typed"],
        "sra_fast.chat": ["data/*"],
        "sra_fast.report.viewer": ["page/*"],
        "sra_fast.kernels": ["py.typed", "measured.json"],
        "sra_fast.training.pipeline.classifiers": ["data/*"],
    },
    install_requires=[
        "torch>=2.11",
        "triton>=3.6; sys_platform == 'linux'",
        "transformers>=5.17",
        "safetensors>=0.8",
        "numpy>=1.26",
    ],
    extras_require={
        "cli": CLI,
        "peft": PEFT,
        "ray": RAY,
        "train": TRAIN,
        "pipeline": PIPELINE,
        "demo": [*CLI, "gguf>=0.17", "accelerate>=1.13"],
        "test": [
            *PIPELINE,
            *RAY,
            "gguf>=0.17",
            "pytest>=8.3",
            "pytest-benchmark>=5",
            "pytest-xdist>=3.6",
            "tensorboard>=2.19",
            "trl>=1.0",
            "hypothesis>=6.100",
            "import-linter>=2.3",
            "nbclient>=0.10",
            "playwright>=1.50",
            "ipykernel>=6.29",
            # A stand-in of S3 on this machine, and what reads from it.
            "s3fs>=2025.3",
            "moto>=5.1",
            "flask>=3",
            "flask-cors>=5",
            "py-partiql-parser>=0.6",
        ],
        "docs": [
            *TRAIN,
            "mkdocs>=1.6",
            "mkdocs-material>=9.8",
            "mkdocstrings-python>=2.0",
        ],
        "lint": [
            "ruff>=0.17",
            "mypy>=2.4",
            "pandas-stubs>=3.1; python_version >= '3.11'",
            "basedpyright>=1.40",
            "import-linter>=2.3",
        ],
    },
    entry_points={"console_scripts": ["sra-fast = sra_fast.cli.entry:main"]},
)

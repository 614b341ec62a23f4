"""Old import paths of modules that have moved, which go on working for a while with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = "sra_fast."
_MOVED = {
    "attention": "measure.attention",
    "chat_text": "chat.chat_text",
    "cli.annotate": "training.cli.annotate",
    "cli.classify": "training.cli.classify",
    "cli.evaluate": "training.cli.evaluate",
    "cli.extend": "training.cli.extend",
    "cli.generation": "training.cli.replying",
    "cli.judge": "training.cli.judge",
    "cli.reproduce": "training.cli.reproduce",
    "cli.train": "training.cli.train",
    "comparison": "report.comparison",
    "conversations": "chat.conversations",
    "defaults": "names",
    "encoding": "chat.encoding",
    "esconv": "chat.esconv",
    "file_scoring": "files.score_file",
    "loading": "files.models",
    "packing": "measure.packing",
    "palette": "report.palette",
    "printable": "tools.printable",
    "provenance": "files.provenance",
    "reduction": "measure.reduction",
    "report_plots": "report.plots",
    "report_text": "report.markdown",
    "request": "measure.request",
    "runs": "files.run_folder",
    "sequences": "measure.sequences",
    "served": "measure.served",
    "smollm2": "files.smollm2",
    "spans": "measure.spans",
    "strategies": "chat.strategies",
    "strict_json": "tools.strict_json",
    "suggestions": "tools.suggestions",
    "templates": "chat.templates",
    "training.annotation": "training.pipeline.annotation",
    "training.annotation.pairing": "training.pipeline.items",
    "training.annotation.tables": "training.pipeline.annotation.rating_tables",
    "training.callback": "training.sra.callback",
    "training.checkpoints": "training.lora.checkpoints",
    "training.classifiers": "training.pipeline.classifiers",
    "training.classifiers.data": "training.pipeline.classifiers.labelled",
    "training.classifiers.evaluation": "training.pipeline.classifiers.held_out",
    "training.classifiers.figure": "training.pipeline.classifiers.confusion_figure",
    "training.classifiers.report": "training.pipeline.classifiers.quality",
    "training.classifiers.settings": "training.pipeline.classifiers.classifier_settings",
    "training.coefficients": "tools.coefficients",
    "training.collator": "training.data.collator",
    "training.config": "training.lora.settings",
    "training.curves": "training.lora.curves",
    "training.endpoint": "training.pipeline.endpoint",
    "training.evaluation": "training.pipeline.evaluation",
    "training.evaluation.quality": "training.pipeline.evaluation.language_quality",
    "training.evaluation.report": "training.pipeline.evaluation.evaluation_report",
    "training.evaluation.row_correlation": "training.pipeline.evaluation.condition_correlation",
    "training.evaluation.rows": "training.pipeline.evaluation.conditions",
    "training.evaluation.run": "training.pipeline.evaluation.evaluate",
    "training.evaluation.scoring": "training.pipeline.evaluation.reply_scores",
    "training.examples": "training.data.examples",
    "training.extension": "training.pipeline.extension",
    "training.extension.run": "training.pipeline.extension.extend",
    "training.extension.statistics": "training.pipeline.extension.counts",
    "training.generation": "training.pipeline.generation",
    "training.generation.prompts": "training.pipeline.generation.generation_prompts",
    "training.generation.run": "training.pipeline.generation.replies",
    "training.history": "training.sra.history",
    "training.items": "training.pipeline.items",
    "training.judging": "training.pipeline.judging",
    "training.judging.items": "training.pipeline.items",
    "training.judging.prompt": "training.pipeline.judging.judge_prompt",
    "training.judging.run": "training.pipeline.judging.judge",
    "training.listening": "training.sra.listening",
    "training.means": "training.sra.means",
    "training.mlp_slices": "training.memory.mlp_slices",
    "training.outcome": "training.lora.outcome",
    "training.packing": "training.data.packable",
    "training.processes": "tools.launched_processes",
    "training.regulariser": "training.sra.regulariser",
    "training.repeated": "training.sra.repeated",
    "training.reply_logits": "training.memory.reply_logits",
    "training.reply_trainer": "training.lora.reply_trainer",
    "training.reproduction": "training.pipeline.reproduction",
    "training.reproduction.plan": "training.pipeline.reproduction.stages",
    "training.reproduction.report": "training.pipeline.reproduction.reproduction_report",
    "training.reproduction.run": "training.pipeline.reproduction.reproduce",
    "training.request_flow": "training.pipeline.request_flow",
    "training.run": "training.lora.train",
    "training.run_data": "training.lora.train_data",
    "training.statistics": "tools.intervals",
    "training.trained_on": "training.data.trained_on",
    "training.trainer": "training.sra.trainer",
    "watching": "measure.watching",
}
"""Where each module is now, by its old path; both without the name of the package."""


def present_path(path: str) -> str | None:
    """Return the present path of a module that has moved, or whose package has; None if neither.

    Args:
        path: an import path, with the name of the package.
    """
    if not path.startswith(_PACKAGE):
        return None
    old, below = path.removeprefix(_PACKAGE), ""
    while old:
        if old in _MOVED:
            return f"{_PACKAGE}{_MOVED[old]}{below}"
        old, dot, last = old.rpartition(".")
        below = f"{dot}{last}{below}"
    return None


class MovedModules(Loader):
    """Import a module that has moved under its old path, and warn of it."""

    @staticmethod
    def find_spec(
        path: str, _places: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to import a path, None for one that nothing has moved from."""
        if present_path(path) is None:
            return None
        return ModuleSpec(path, MovedModules(), is_package=True)  # its modules may be asked for

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make a module, which :meth:`exec_module` then replaces."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the module that is under the present path under the old one, too.

        Raises:
            ModuleNotFoundError: the present package has no such module.
        """
        old = module.__name__
        new = str(present_path(old))
        present = importlib.import_module(new)
        warnings.warn(
            f"{old} is now {new}; the old path goes with version 0.2",
            DeprecationWarning,
            stacklevel=2,
        )
        sys.modules[old] = present


def keep_old_paths() -> None:
    """Make the old import paths work in this process; more calls than one change nothing.

    They are looked at first: a package under its old path would else load its modules twice.
    """
    if MovedModules not in sys.meta_path:
        sys.meta_path.insert(0, MovedModules)

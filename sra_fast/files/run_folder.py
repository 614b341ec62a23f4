"""Run folders: scoring that can be killed at any moment and continued later.

A run is cut into batches in an order that depends on its settings alone. Each finished batch is one
file that appears whole or not at all, so whatever is found after a crash is right, and what is
missing is computed again in the same batches: the end is the same, bit for bit.

    run.json             the settings; "finished" once everything below is there
    shards/00007.safetensors    while it runs: the batches done so far
    masses.safetensors   all of them together (SRAResult.load reads it)
    …                    tables that the caller writes from it
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sra_fast.chat.encoding import EncodedPrompt
from sra_fast.result import SRAResult
from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.atomic import write_json

RUN = "run.json"
MASSES = "masses.safetensors"
SHARDS = "shards"

_FORMAT = "sra_fast.run/1"
_SHOWN = 60  # characters of a setting in an error


class RunFolderError(ArgumentError):
    """The folder cannot take this run; the message says why and the way out."""


class RunFolder:
    """A folder that holds one run.

    Args:
        path: of the folder; made when the run begins, its parents too.
        settings: everything the results depend on, as JSON can say it. Whoever finds other
            settings in the folder's ``run.json`` leaves it alone.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))

    def check(self) -> None:
        """Whether the folder is free, or holds this very run. Changes nothing.

        Raises:
            RunFolderError: it holds something else.
        """
        recorded = self._record()
        if recorded is None:
            return
        difference = _first_difference(recorded["settings"], self.settings)
        if difference is not None:
            name, before, now = difference
            raise RunFolderError(
                f"{self.path} holds another run: its setting {name!r} is {_shown(before)}, and now "
                f"it is {_shown(now)}; give another folder, or delete that one",
                "out",
            )

    @contextmanager
    def opened(self, replacing: Sequence[str] | None = None) -> Iterator[None]:
        """Makes the folder this run's, and keeps other processes out of it while inside.

        Args:
            replacing: if given, an earlier run of the same kind makes room, whatever its settings:
                these are the files and folders that such a run writes beside ``run.json``, and
                they are removed. Anything else in the folder stays.

        Raises:
            RunFolderError: the folder holds something else, or another process works in it.
        """
        check = self.check if replacing is None else self._check_kind
        check()
        self.path.mkdir(parents=True, exist_ok=True)
        with _locked(self.path):
            check()
            if replacing is not None and self._record() is not None:
                self._clear(replacing)
            for leftover in self.path.glob(".*.tmp"):  # of a run that was killed
                leftover.unlink(missing_ok=True)
            recorded = self._record()
            if recorded is None:
                self._write_record(finished=False)
            elif recorded["finished"]:
                shutil.rmtree(self.path / SHARDS, ignore_errors=True)
            yield

    def finished(self) -> SRAResult | None:
        """The results, if this very run was finished here, else None.

        Raises:
            RunFolderError: the folder holds something else.
        """
        self.check()
        recorded = self._record()
        if recorded is None or not recorded["finished"]:
            return None
        return _loaded(self.path / MASSES)

    def complete(
        self,
        prompts: Sequence[EncodedPrompt],
        batch_tokens: int,
        score_batch: Callable[[Sequence[EncodedPrompt]], SRAResult],
        write_tables: Callable[[SRAResult], None],
        on_progress: Callable[[int], None] = lambda tokens: None,
    ) -> SRAResult:
        """Scores what is not scored yet and writes the final files. Call it inside ``opened``.

        Args:
            prompts: all of them, in order.
            batch_tokens: most tokens of a batch, or one prompt if that is longer.
            score_batch: prompts to results, in order.
            write_tables: called with all results before the run counts as finished.
            on_progress: called with the number of tokens of each batch that is done or was.
        """
        shards = self.path / SHARDS
        shards.mkdir(exist_ok=True)
        results = []
        for number, batch in enumerate(batches(prompts, batch_tokens)):
            shard = shards / f"{number:05d}.safetensors"
            result = _loaded(shard)
            if result is None or not _answers(result, batch):
                result = score_batch(batch)
                result.save(shard)
            results.append(result)
            on_progress(sum(len(prompt.input_ids) for prompt in batch))
        whole = SRAResult.concatenate(results)
        whole.save(self.path / MASSES)
        write_tables(whole)
        self._write_record(finished=True)
        shutil.rmtree(shards)
        return whole

    def finish(self) -> None:
        """Notes that the run is done. Call it inside :meth:`opened`."""
        self._write_record(finished=True)

    def _check_kind(self) -> None:
        recorded = self._record()
        if recorded is None:
            return
        before, now = recorded["settings"].get("kind"), self.settings["kind"]
        if before != now:
            raise RunFolderError(
                f"{self.path} holds another run, of kind {before!r} and not {now!r}; give another "
                "folder, or delete that one",
                "out",
            )

    def _clear(self, contents: Sequence[str]) -> None:
        for name in contents:
            target = self.path / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        self._write_record(finished=False)

    def _record(self) -> dict[str, Any] | None:
        """What ``run.json`` holds; None if the folder is not there or empty.

        Raises:
            RunFolderError: the folder holds other things, or its ``run.json`` is not one of ours.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; give another folder", "out")
        file = self.path / RUN
        if not file.exists():
            # A run killed while it wrote its first file leaves only that behind.
            others = self.path.iterdir() if self.path.exists() else iter(())
            if all(other.name.startswith(f".{RUN}.") for other in others):
                return None
            raise RunFolderError(
                f"{self.path} is not empty and holds no run ({RUN} is missing), so it is left "
                "alone; give another folder, or empty that one",
                "out",
            )
        try:
            recorded = json.loads(file.read_text(encoding="utf-8"))
            if recorded["format"] == _FORMAT and isinstance(recorded["settings"], dict):
                return {"settings": recorded["settings"], "finished": recorded["finished"] is True}
        except (ValueError, KeyError, TypeError):
            pass
        raise RunFolderError(
            f"{file} was not written by this version of sra_fast; give another folder, or delete "
            "that one",
            "out",
        )

    def _write_record(self, *, finished: bool) -> None:
        record = {"format": _FORMAT, "finished": finished, "settings": self.settings}
        write_json(self.path / RUN, record)


def batches(prompts: Sequence[EncodedPrompt], tokens: int) -> list[list[EncodedPrompt]]:
    """Prompts in order, as many to a batch as ``tokens`` allow, and at least one."""
    found: list[list[EncodedPrompt]] = []
    room = 0
    for prompt in prompts:
        length = len(prompt.input_ids)
        if not found or length > room:
            found.append([])
            room = tokens
        found[-1].append(prompt)
        room -= length
    return found


def _loaded(path: Path) -> SRAResult | None:
    """A saved result; None if there is none or it cannot be read, so that it is computed again."""
    try:
        return SRAResult.load(path)
    except (OSError, ValueError, KeyError):
        return None


def _answers(result: SRAResult, batch: Sequence[EncodedPrompt]) -> bool:
    wanted = [(prompt.conversation, turn) for prompt in batch for turn in prompt.turns]
    return list(zip(result.conversation.tolist(), result.turn.tolist(), strict=True)) == wanted


def _first_difference(before: Any, now: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Name and both values of the first setting that differs, in the order of ``now``."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *(key for key in before if key not in now)]:
            inner = f"{name}.{key}" if name else key
            found = _first_difference(before.get(key), now.get(key), inner)
            if found is not None:
                return found
        # Strategies in another order are the same strategies.
        return None
    return None if before == now and type(before) is type(now) else (name, before, now)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder against other processes; a killed one lets go by itself."""
    try:
        import fcntl
    except ImportError:  # Windows: two runs at once would only do each other's work again
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise RunFolderError(
                    f"another process is working in {folder}; wait for it, or give another folder",
                    "out",
                ) from error
            # A file system without locks.
        yield
    finally:
        os.close(descriptor)

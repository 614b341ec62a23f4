"""Run the work of a command: direct its output, and set its exit status."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from sra_fast.cli.quiet_libraries import quiet_libraries
from sra_fast.cli.running_command import running_files, running_parameters
from sra_fast.cli.standard_output import FAILED, print_result, written
from sra_fast.tools.argument_error import ArgumentError, UnconvertedError
from sra_fast.tools.missing_extra import MissingExtraError, what_to_install
from sra_fast.tools.printable import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_PLAIN_WIDTH = 120  # of tables that go to a file or a pipe
_INTERRUPTED = 130
_BOUNDS_OF_MEMORY = ("batch_tokens", "batch_size")  # arguments of commands


class Session:
    """The output of one command.

    Attributes:
        result: what ``--json`` prints; the command sets it.
        unwritten: whether standard output did not take all that was shown.
        speaks: whether ``--json`` prints the result of this process, or its error; of several that
            run one command, one does.
    """

    def __init__(self, as_json: bool, speaks: bool = True) -> None:
        self._as_json = as_json
        self.result: dict[str, Any] = {}
        self.unwritten = False
        self.speaks = speaks

    def show(self, what: RenderableType) -> None:
        """Print a part of the result, usually a table; to standard error under ``--json``."""
        console = self._console(stderr=self._as_json)
        if not written(lambda: console.print(what)):
            self.unwritten = True

    def say(self, text: str) -> None:
        """Print a sentence for people, as it is, to standard error."""
        with contextlib.suppress(OSError):  # standard error is full or closed: nobody listens
            print(printable(text), file=sys.stderr, flush=True)

    def progress_console(self) -> Console:
        """Return the console on standard error that progress is shown on."""
        return self._console(stderr=True)

    def _console(self, *, stderr: bool) -> Console:
        from rich.console import Console

        console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = _PLAIN_WIDTH
        return console


class _Sentences(logging.Handler):
    """A log handler that prints messages as sentences for people, through :meth:`Session.say`."""

    def __init__(self, session: Session) -> None:
        super().__init__(logging.INFO)
        self._session = session

    def emit(self, record: logging.LogRecord) -> None:
        kind = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        self._session.say(kind + record.getMessage())


@contextmanager
def _logging(handler: logging.Handler) -> Iterator[None]:
    """Give what ``sra_fast`` logs to one handler alone while a command works."""
    logger = logging.getLogger("sra_fast")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


@contextmanager
def session(as_json: bool, debug: bool, *, continues: bool, rank: int = 0) -> Iterator[Session]:
    """Run the work of a command; an error becomes one message and exit status 1.

    With ``as_json`` nothing but the result, or ``{"error": …}``, reaches standard output, whatever
    a library prints meanwhile. What this library logs and warns of is printed as sentences on
    standard error. What other libraries log, warn of and draw is shown with ``debug`` alone. With
    ``continues`` an interrupted command goes on where it stopped when it is called again; this is
    said when it is interrupted.

    Of several processes that run one command, only the first, whose ``rank`` is 0, prints what is
    logged, that the command was interrupted and, unless another takes over, the result; the others
    put their rank before an error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    current = Session(as_json, speaks=rank == 0)
    handler = logging.NullHandler() if rank else _Sentences(current)
    status = 0
    try:
        with (
            _stdout_to_stderr() if as_json else contextlib.nullcontext(),
            _logging(handler),
            contextlib.nullcontext() if debug else quiet_libraries(),
        ):
            yield current
    except (typer.Exit, typer.BadParameter):
        raise
    except KeyboardInterrupt:
        status = _INTERRUPTED
        current.result = {"error": "interrupted"}
        if not rank:
            again = "continues where it stopped" if continues else "begins anew"
            current.say(f"interrupted; the same command {again}")
    except Exception as error:
        status = 1
        if debug:
            traceback.print_exc()
        current.result = {"error": _message(error)}
        where = f"process {rank}: " if rank else ""
        with contextlib.suppress(OSError):
            print(f"{where}error: {_message(error)}", file=sys.stderr, flush=True)
    if as_json and current.speaks and not print_result(json.dumps(current.result, allow_nan=False)):
        current.unwritten = True
    if current.unwritten:
        status = status or FAILED
    if status:
        raise typer.Exit(status)


def _message(error: Exception) -> str:
    """Return the error in the words of whoever raised it, safe to print on a terminal."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, ModuleNotFoundError):
        if not isinstance(error, MissingExtraError) and error.name:
            text = what_to_install(error.name)
    elif not isinstance(error, (ValueError, KeyError, OSError)):
        # A bug or another library's error: its text alone may not say what went wrong.
        hint = _memory_hint() if "OutOfMemory" in type(error).__name__ else ""
        text = f"{type(error).__name__}: {text}{hint} ({_where()})"
    elif not text or _is_of_others(error):
        text = f"{type(error).__name__}: {text}".removesuffix(": ") + f" ({_where()})"
    elif isinstance(error, UnconvertedError):
        text += f" ({_conversion_of(error)})"
    elif isinstance(error, ArgumentError):
        text += _hint(error.arguments)
    return "\n".join(printable(line) for line in text.splitlines())


def _conversion_of(error: UnconvertedError) -> str:
    """Return the command that converts a file to conversations."""
    path = error.path
    name = path.name.partition(".")[0]
    out = path.with_name(f"{name}.jsonl")
    if out.exists():
        out = path.with_name(f"{name}-converted.jsonl")
    needs = "".join(f" --{name} NAME" for name in error.arguments)
    return f"sra-fast convert {shlex.quote(str(path))}{needs} --out {shlex.quote(str(out))}"


def _is_of_others(error: Exception) -> bool:
    """Tell whether an error was raised in other code than this library's, and names no file."""
    if isinstance(error, OSError) and error.filename is not None:
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] not in ("", "sra_fast")


def _where() -> str:
    """Return what was being worked on when another library's error came, and how to see more."""
    files = running_files()
    return f"while working on {', '.join(files)}; " * bool(files) + "--debug shows where"


def _hint(arguments: Sequence[str]) -> str:
    """Return the options of the running command that stand for these arguments, in brackets."""
    names = _options_of(arguments)
    return f" ({', '.join(names)})" if names else ""


def _memory_hint() -> str:
    """Return what makes the running command need less memory, or nothing if no option does."""
    names = _options_of(_BOUNDS_OF_MEMORY)
    return f"; try a smaller {names[0]}" if names else ""


def _options_of(arguments: Sequence[str]) -> list[str]:
    """Return the options of the running command for those of these arguments that it has."""
    options = {parameter.name: parameter for parameter in running_parameters()}
    return [_name_of(options[name]) for name in arguments if name in options]


def _name_of(option: Any) -> str:
    """Return the long name of an option; of a switch that is on by default, what turns it off.

    An argument without a name to write has that of the help text, such as DIR.
    """
    if option.param_type_name == "argument":
        return str(option.metavar or option.human_readable_name)
    off = option.secondary_opts if option.default is True else []
    return str(max(off or option.opts, key=len))


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send everything that is written to standard output to standard error, also by C code."""
    sys.stdout.flush()
    try:
        descriptor = sys.stdout.fileno()
        target = sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):  # no real streams, as under a test runner
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    kept = os.dup(descriptor)
    try:
        os.dup2(target, descriptor)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, descriptor)
        os.close(kept)

"""The place where the console script ``sra-fast`` and ``python -m sra_fast`` begin."""

from __future__ import annotations

import os
import sys

_NEEDED = ("typer", "rich")


def main(*command: str) -> None:
    """Run the command line, or say what to install if its packages are missing.

    Args:
        command: what stands before the arguments of the process, such as the name of a command.
    """
    # Threads that spin at every barrier cost 7% less on an idle machine and five times more on a
    # busy one. It counts only before torch is imported, and only if the user has not chosen.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import rich  # noqa: F401 - typer does without it, the tables do not

        from sra_fast.cli.app import app
        from sra_fast.cli.standard_output import run_to_the_end
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _NEEDED:
            raise
        print(
            f"error: the command line needs the package {error.name!r}: "
            "pip install 'sra_fast[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run_to_the_end(lambda: app([*command, *sys.argv[1:]], prog_name="sra-fast"))

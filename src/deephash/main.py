"""The command ``deephash``, which is also ``python -m deephash`` and the scripts of the repository.

Heavy modules are imported only when a command runs.
"""

import os
import shlex
import sys
from collections.abc import Sequence

from deephash.utils import program

HELP = """\
Deep hashing for image retrieval: networks that turn images into short binary codes.

  {0} train [key=value ...]       train a method and measure its codes
  {0} train -m key=value,value    a grid of runs, or a named sweep: +sweep=table2_beta
  {0} evaluate run=FOLDER         measure the codes of a run again, with figures; compare runs
  {0} report sweep=NAME           the tables and figures of a sweep
  {0} data ACTION dataset=NAME    prepare, verify, describe, export or encode a dataset

  {0} encode run=FOLDER images=PHOTOS out=codes.npz     the codes of images
  {0} search run=FOLDER images=PHOTOS query=PHOTO.jpg   the most similar images
  {0} serve run=FOLDER images=PHOTOS                    a search page in the browser
  {0} export run=FOLDER to=onnx                         the encoder, for other programs

  {0} COMMAND --help              the options of a command
  {0} --version"""


def console() -> int:
    """Run the command ``deephash``. Returns the exit status."""
    program.start(program.CONSOLE)
    return _interruptible(sys.argv[1:])


def module() -> int:
    """Run ``python -m deephash``. Returns the exit status."""
    program.start(os.environ.pop(program.STARTED_AS, program.MODULE))
    return _interruptible(sys.argv[1:])


def script(page: str) -> int:
    """Run a script of the repository, such as ``train.py``. Returns the exit status."""
    program.start(sys.argv[0])
    if page not in program.SCRIPTS and "COMP_LINE" not in os.environ:  # no completion of a shell
        line = shlex.join(sys.argv[1:])
        print(f"{page}.py is deprecated. Type: {program.command(page)} {line}", file=sys.stderr)
    return _interruptible([page, *sys.argv[1:]])


def _interruptible(arguments: Sequence[str]) -> int:
    try:
        return main(arguments)
    except KeyboardInterrupt:  # before the command started
        return 130


def main(arguments: Sequence[str]) -> int:
    """Run a command.

    Args:
        arguments: the command line, beginning with the command.

    Returns:
        the exit status.
    """
    page, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if page in program.PAGES:
        with program.without_garbage_collection():
            from deephash import cli

        return cli.run(page, rest)
    if page in ("--help", "-h", "help"):
        print(HELP.format(program.started_as()))
    elif page == "--version":
        print(program.version())
    elif page in ("-sc", "--shell-completion") and list(rest) == ["install=bash"]:
        print(program.completion())
    else:
        print(_refusal(page, arguments), file=sys.stderr)
        return 2
    return 0


def _refusal(page: str, arguments: Sequence[str]) -> str:
    """Return the error message for a command line that does not begin with a command."""
    import difflib

    help_command = f"{program.started_as()} --help"
    known = ", ".join(program.PAGES)
    if not page:
        return f"No command was given; there are {known}.\n  Type: {help_command}"
    if page.startswith("-") or "=" in page:
        line = shlex.join(arguments)
        return (
            f"{page}  stands where a command is needed: {known}.\n"
            f"  Type: {program.command('train')} {line}     ({help_command})"
        )
    near = difflib.get_close_matches(page.lower(), program.PAGES, n=1)
    meant = shlex.join([*near, *arguments[1:]]) if near else "--help"
    return (
        f"There is no command {page!r}; there are {known}.\n  Type: {program.started_as()} {meant}"
    )

"""How the program was started, and the folder of its configuration.

Messages name commands in the form in which this one was started: ``deephash train`` (also in a
notebook), ``python -m deephash train`` or ``python train.py``. A command without a script is
``python -m deephash report`` beside ``python train.py``.
"""

import contextlib
import gc
import shlex
from collections.abc import Iterator
from pathlib import Path

PAGES = ("train", "evaluate", "report", "data", "encode", "search", "serve", "export")
"""The commands. Each has a page in ``conf/``."""

SCRIPTS = ("train", "evaluate")
"""Commands that are also scripts of the repository; the scripts of the others are deprecated."""

CONSOLE = "deephash"
MODULE = "python -m deephash"

STARTED_AS = "DEEPHASH_STARTED_AS"
"""Environment variable of a job: how the command that launched it was started."""

_HERE = Path(__file__).resolve().parents[1]
_started_as = CONSOLE  # or MODULE, or the script as it was typed, "python ../deephash/train.py"


def start(as_typed: str) -> None:
    """Set how the program was started.

    Args:
        as_typed: ``CONSOLE``, ``MODULE``, or the path of a script as it was typed.
    """
    global _started_as
    _started_as = as_typed


def started_as() -> str:
    """Return the argument of ``start``."""
    return _started_as


def by_script() -> bool:
    """Return whether the program was started by a script of the repository."""
    return _started_as.endswith(".py")


def command(page: str) -> str:
    """Return the command line of a command, in the form in which this one was started.

    >>> command("evaluate")
    'deephash evaluate'
    """
    if not by_script():
        return f"{_started_as} {page}"
    if page not in SCRIPTS:
        return f"{MODULE} {page}"
    return f"python {shlex.quote(str(Path(_started_as).with_name(f'{page}.py')))}"


def train_arguments() -> tuple[str, ...]:
    """Return the arguments of Python that start training in another process.

    ``-P`` prevents modules in the working folder from shadowing installed ones.
    """
    if by_script():
        return (str(Path(_started_as).resolve().with_name("train.py")),)
    arguments = ("-m", "deephash", "train")
    # With -P a package that lies in the working folder itself would not be found.
    return arguments if _HERE.parent == Path.cwd() else ("-P", *arguments)


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Turn off the cyclic garbage collector while modules are imported or a page is composed.

    Nearly all objects that are created meanwhile stay, so that searching them for garbage, again
    and again while their number grows, only takes time: a sixth of that of the imports.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def checkout() -> Path | None:
    """Return the root of the repository that contains this package; None if it is installed."""
    root = _HERE.parent.parent
    has_conf = _HERE.parent.name == "src" and (root / "conf" / "train.yaml").is_file()
    return root if has_conf and (root / "pyproject.toml").is_file() else None


def folder(name: str) -> Path:
    """Return a folder at the top of the repository, or its copy in the wheel.

    The repository takes precedence, so an editable install sees every edit.

    Args:
        name: ``conf`` or ``sweeps``.
    """
    root = checkout()
    return _HERE / name if root is None else root / name


def version() -> str:
    """Return the output of ``--version``."""
    from importlib import metadata

    import deephash

    return f"deephash {deephash.__version__} (torch {metadata.version('torch')})"


def completion() -> str:
    """Return the bash script that completes arguments of the command ``deephash``."""
    return f"""\
_deephash()
{{
    local line=${{COMP_LINE:0:$COMP_POINT}} words choices
    words=($line)
    if [[ "${{line#* }}" == *" "* ]]; then
        choices=$(COMP_LINE="$line" "${{words[0]}}" "${{words[1]}}" -sc query=bash)
    else
        choices="{" ".join(PAGES)}"
    fi
    COMPREPLY=($(compgen -o nospace -o default -W "$choices" -- "${{line##* }}"))
}}
COMP_WORDBREAKS=${{COMP_WORDBREAKS//=}}
complete -o nospace -o default -F _deephash deephash"""

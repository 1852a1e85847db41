"""How this program was started, and where its configuration is. Imports the standard library alone.

Messages name commands as the user started this one: ``deephash train``, or ``python -m deephash
train``, or ``python train.py``. Where no command started it, as in a notebook, it is the first.
"""

import os
import shlex
from pathlib import Path

PAGES = ("train", "evaluate", "report", "data")
"""The commands. Each has a script in the repository and a page in ``conf/``."""

CONSOLE = "deephash"
MODULE = "python -m deephash"

STARTED_AS = "DEEPHASH_STARTED_AS"
"""How the command that launched a job was started; in the environment of the job."""

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
    """Return how the program was started: ``CONSOLE``, ``MODULE``, or the path of a script."""
    return _started_as


def by_script() -> bool:
    """Return whether a script of the repository was started."""
    return _started_as.endswith(".py")


def command(page: str) -> str:
    """Return how to start a command, in the form in which this one was started.

    >>> command("evaluate")
    'deephash evaluate'
    """
    if not by_script():
        return f"{_started_as} {page}"
    return f"python {shlex.quote(os.path.join(os.path.dirname(_started_as), f'{page}.py'))}"


def train_arguments() -> tuple[str, ...]:
    """Return the arguments of Python that train in another process, as this program would.

    ``-P`` keeps modules of the working folder from taking the places of installed ones.
    """
    if by_script():
        return (str(Path(_started_as).resolve().with_name("train.py")),)
    elsewhere = _HERE.parent != Path.cwd()  # where the package itself is found by -P
    return (*(["-P"] if elsewhere else []), "-m", "deephash", "train")


def checkout() -> Path | None:
    """Return the root of the repository this package runs from, None where it was installed."""
    root = _HERE.parent.parent
    found = _HERE.parent.name == "src" and (root / "conf" / "train.yaml").is_file()
    return root if found and (root / "pyproject.toml").is_file() else None


def folder(name: str) -> Path:
    """Return a folder that stands at the top of the repository and inside of the wheel.

    The repository's own is used where there is one, so an editable install sees every edit.

    Args:
        name: ``conf``, the configuration; or ``sweeps``, the named sweeps.
    """
    root = checkout()
    return _HERE / name if root is None else root / name


def version() -> str:
    """Return what ``--version`` prints."""
    from importlib import metadata

    import deephash

    return f"deephash {deephash.__version__} (torch {metadata.version('torch')})"


def completion() -> str:
    """Return what bash evaluates to complete the words of the command ``deephash``."""
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

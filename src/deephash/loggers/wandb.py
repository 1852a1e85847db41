"""Weights & Biases: offline unless there are credentials, and never a question asked.

What W&B shows of a run is made from ``log.jsonl``, the local record: one row for each step. A run
that was interrupted begins a new W&B record, and an offline record that was cut short would be
uploaded with a hole, or would stop ``wandb sync`` for all others. So each session writes all rows
that the server cannot have yet, and sets offline records aside that the new one replaces.
"""

import json
import logging
import netrc
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from deephash.errors import ConfigError, FileError
from deephash.loggers.logger import Logger
from deephash.utils.bounds import Name, Positive
from deephash.utils.extras import import_extra
from deephash.utils.files import parse_json

log = logging.getLogger(__name__)

MODES = ("auto", "online", "offline", "disabled")
LEGACY_MODES = {"dryrun": "offline", "run": "online", "shared": "online"}
"""Further values of ``WANDB_MODE``."""

FINISH_TIMEOUT = 120.0
"""Seconds an upload may hold up the end of a run; what is left of it stays on disk."""

MARKS_RESUMED = (0, 30)
"""The first release that writes into an offline record that it continues a run."""

MOST_NAME, MOST_TAG = 128, 64
"""Characters that W&B takes for names and groups, and for tags."""

ASIDE = ".replaced"
"""The suffix of an offline record that a later one replaces; ``wandb sync`` passes it over."""

FIGURES = "figures.txt"
"""Marks an offline record that holds no history of training."""

COMPLETE = "complete.txt"
"""In the folder ``wandb`` of a run: the id of the run that W&B has, or will have, to its end."""


class Wandb(Logger):
    """Write a run where the ``wandb`` tools find it, on this machine or on a server.

    Nothing that goes wrong in W&B ends a training: it costs a warning, and the run goes on without.

    Args:
        project: The project the run belongs to.
        config: The folded configuration, as plain containers.
        folder: The run folder; the files land in ``wandb`` under it.
        mode: ``auto`` follows the environment's ``WANDB_MODE`` and ``wandb offline``, and without
            them goes online only where credentials exist. ``online`` falls back to ``offline``,
            with a warning, when there are no credentials or no server answers.
        entity: The user or team; by default the account's own.
        group: What the run is grouped under, such as its method.
        tags: Words to find the run by.
        name: The run's name on the page.
        run_id: Tells a resumed run that it is the same one.
        job_type: What is done: ``train``, ``comparison`` or ``report``.
        init_timeout: Seconds to wait for the server before going on offline.
        history: The ``log.jsonl`` of a training, whose rows W&B is to have; None to add to a run.

    Raises:
        ConfigError: The package is not installed, or an option cannot be right.
    """

    def __init__(
        self,
        project: str,
        config: Mapping[str, Any],
        folder: str | Path,
        mode: Literal["auto", "online", "offline", "disabled"] = "auto",
        entity: Name | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        name: str | None = None,
        run_id: str | None = None,
        job_type: str = "train",
        init_timeout: Positive = 15.0,
        history: str | Path | None = None,
    ) -> None:
        if wrong := self.refused({"mode": mode, "project": project, "entity": entity}):
            key, what, instead = wrong[0]
            raise ConfigError(f"logger.wandb.{key}  {what} {instead}")
        self._wandb = load_package()
        self._run: Any = None
        self._row: dict[str, Any] = {}  # of the step that is being measured
        self._step = -1
        self._first = 0  # the first step that W&B does not have
        self._folder = Path(folder)
        self._history = None if history is None else Path(history)
        swept = "WANDB_SWEEP_ID" in os.environ
        self._id = id_of(run_id)
        self._asked: dict[str, Any] = {
            "project": project or None,
            "config": beside_parameters(config, sweep_parameters()) if swept else dict(config),
            "dir": str(folder),
            "entity": entity,
            "group": cut(group, MOST_NAME),
            "tags": list(dict.fromkeys(cut(str(tag), MOST_TAG) for tag in tags if str(tag))),
            "name": cut(name, MOST_NAME),
            "id": None if swept else run_id,
            "job_type": job_type,
            # In a sweep inside one process the default would hand back the previous job's run.
            "reinit": "finish_previous",
            # Add to the run of this id, if there is one; offline too, where `wandb sync` reads it.
            "resume": "allow" if self._id else None,
        }
        self._timeout = init_timeout
        self.mode = "disabled"
        try:
            self.mode = self._open(resolve_mode(mode, self._wandb))
            self._take_up()
        except (Exception, SystemExit) as error:
            self._give_up("cannot start", error)

    @staticmethod
    def refused(options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Return what W&B would refuse of the options of the logger: key, fault and what to type.

        >>> Wandb.refused({"project": "a/b"})
        [('project', "'a/b' holds / which W&B does not allow.", 'Try logger.wandb.project=a-b')]
        """
        wrong = []
        mode, project, entity = (options.get(key) for key in ("mode", "project", "entity"))
        if mode is not None and mode not in MODES:
            wrong.append(("mode", f"is {mode!r}.", f"Choose from: {', '.join(MODES)}"))
        for key, value, pattern in (
            ("project", project, r"[/\\#?%:\x00-\x1f]"),
            ("entity", entity, r"[^\w.-]"),
        ):
            if not isinstance(value, str):
                continue
            instead = re.sub(pattern, "-", value)[:MOST_NAME]
            if len(value) > MOST_NAME:
                wrong.append((key, f"has {len(value)} characters, and W&B takes {MOST_NAME}.",
                              f"Try logger.wandb.{key}={instead}"))  # fmt: skip
            elif bad := sorted(set(re.findall(pattern, value))):
                text = " ".join("a blank" if one == " " else one for one in bad)
                wrong.append((key, f"{value!r} holds {text} which W&B does not allow.",
                              f"Try logger.wandb.{key}={instead}"))  # fmt: skip
        return wrong

    def scalars(self, where: str, values: Mapping[str, float], step: int, epoch: int) -> None:
        if self._run is None or step < self._first:
            return
        if step != self._step:
            self._write_row()
        self._step = step
        self._row |= {f"{where}/{name}": value for name, value in values.items()}
        self._row["epoch"] = epoch

    def report(self, report: Mapping[str, Any], step: int) -> None:
        """Write the report's numbers into the run's summary and end the run."""
        if self._run is None:
            return
        self._write_row()
        try:
            if self._run is not None:
                metrics = report.get("metrics", {})
                note = {"note": metrics["note"]} if metrics.get("note") else {}
                self._run.summary.update(flat(metrics) | note)
                self._run.summary.update(flat(report.get("selection", {}), "selection/"))
        except Exception as error:
            self._give_up("does not take the report", error)
        if self._finish() and self._history is not None and self._id and self.mode != "disabled":
            with suppress(OSError):
                (self._folder / "wandb" / COMPLETE).write_text(self._id)

    def summary(self, report: Mapping[str, Any], folder: Path) -> None:
        """Print the command that uploads an offline run."""
        if self.mode == "offline":
            print(f"W&B     offline; to upload it: {sync_command(self._folder)}")

    def figures(self, paths: Mapping[str, Path]) -> None:
        if self._run is None:
            return
        try:
            image = self._wandb.Image
            self._run.log({f"figures/{name}": image(str(path)) for name, path in paths.items()})
        except Exception as error:
            self._give_up("does not take the figures", error)

    def artifact(self, name: str, kind: str, paths: Mapping[str, Path]) -> None:
        if self._run is None:
            return
        try:
            allowed = re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:MOST_NAME]
            made = self._wandb.Artifact(allowed, type=kind)
            for inside, path in paths.items():
                made.add_file(str(path), name=inside)
            self._run.log_artifact(made)
        except Exception as error:
            self._give_up("does not take the files", error)

    def close(self, failed: bool = False) -> None:
        """End the run, also after an exception, or the next job of a sweep would write into it."""
        self._write_row()
        self._finish(failed)

    def _finish(self, failed: bool = False) -> bool:
        """End the run; return whether W&B did so without an error."""
        if self._run is None:
            return False
        run, self._run = self._run, None
        try:
            run.finish(exit_code=int(failed))
        except Exception as error:  # whatever the server did: the files are on this disk
            log.warning("wandb could not finish its upload: %r. Try wandb sync later.", error)
            self._end_service()
            return False
        return True

    def _write_row(self) -> None:
        """Give W&B the row of a step, once and whole: it refuses what comes for it afterwards."""
        row, self._row = self._row, {}
        if row and self._run is not None:
            try:
                self._run.log(row, step=self._step)
            except Exception as error:
                self._give_up("does not take values", error)

    def _give_up(self, what: str, error: BaseException) -> None:
        reason = str(error).strip().splitlines() or [""]
        log.warning("wandb %s, the run goes on without: %s: %s", what, type(error).__name__,
                    reason[0])  # fmt: skip
        run, self._run = self._run, None
        self.mode = "disabled"
        if run is not None:
            with suppress(Exception):
                run.finish(exit_code=1)
        self._end_service()

    def _end_service(self) -> None:
        """End W&B's process after a failure; at the exit of Python a dead one is a traceback."""
        with suppress(Exception, SystemExit):
            self._wandb.teardown(exit_code=1)

    def _open(self, mode: str) -> str:
        """Start the run in this mode, or offline where online cannot be had; say which it was."""
        if mode == "online" and not has_credentials():  # wandb would ask at the terminal
            log.warning("wandb goes offline: no credentials. Run wandb login to change that.")
            mode = "offline"
        if mode == "online":
            try:
                self._start("online")
            except Exception as error:  # no answer, no right to the project, an older server
                log.warning("wandb goes offline: %s", error)
                mode = "offline"
        if mode != "online":
            self._start(mode)
        return mode

    def _start(self, mode: str) -> None:
        wanted = {"silent": True, "console": "off", "init_timeout": self._timeout}
        if "finish_timeout" in self._wandb.Settings.model_fields:  # not in the older ones
            wanted |= {"finish_timeout": FINISH_TIMEOUT, "finish_timeout_raises": False}
        if (self._folder / "wandb").is_symlink():  # a run folder may come from a stranger
            raise OSError(f"{self._folder / 'wandb'} is a symbolic link; remove it")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            mode=mode, settings=self._wandb.Settings(**wanted), **self._asked
        )

    def _take_up(self) -> None:
        """Complete what W&B has of an earlier session of the same run."""
        if self.mode == "disabled":
            return
        files = getattr(self._run, "dir", None)
        own = None if files is None else Path(files).parent.resolve()  # of the new record
        found = [] if self._id is None else records(self._folder, self._id)
        earlier = [file for file in found if file.parent.resolve() != own]
        if self.mode == "offline" and earlier and release(self._wandb) < MARKS_RESUMED:
            log.warning(
                "wandb %s does not mark what continues an offline run, so that wandb sync may"
                " replace what was uploaded before. Update it: pip install -U wandb",
                self._wandb.__version__,
            )
        if self._history is None:
            if self.mode == "offline" and own is not None:
                (own / FIGURES).touch()
            return
        if self.mode == "online":
            resumed = getattr(self._run, "resumed", False)
            self._first = int(getattr(self._run, "starting_step", 0)) if resumed else 0
        else:
            steps = [last_step(file) for file in earlier if uploaded(file)]
            self._first = 1 + max(steps, default=-1)
        for row, step in rows(self._history):
            if step >= self._first:
                self._run.log(row, step=step)
                self._first = step + 1
        replaced = [file for file in earlier if not uploaded(file) and not holds_figures(file)]
        for file in replaced:
            file.rename(file.with_name(file.name + ASIDE))
        if replaced:
            log.info("wandb: the new record replaces %d earlier ones of this run", len(replaced))


def load_package() -> Any:
    """Import ``wandb``.

    Raises:
        ConfigError: It is not installed; the message says what to type.
    """
    return import_extra("wandb", "logger=wandb", "logger=console")


def resolve_mode(mode: str, package: Any = None) -> str:
    """Return what ``auto`` comes to on this machine; any other mode stays as it is.

    Args:
        mode: One of `MODES`.
        package: The module ``wandb``, to ask what ``wandb offline`` set for this folder.
    """
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return "disabled"
    wished = os.environ.get("WANDB_MODE", "").lower()
    if not wished and package is not None:
        with suppress(Exception):
            wished = str(package.setup().settings.mode)
            wished = "" if wished == "online" else wished  # also where nothing was set
    wished = LEGACY_MODES.get(wished, wished)
    if wished in MODES[1:]:
        return wished
    return "online" if has_credentials() else "offline"


def has_credentials() -> bool:
    """Whether wandb would find a key without asking: in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname or "api.wandb.ai"
    named = os.environ.get("NETRC")
    with suppress(OSError, RuntimeError):  # there may be no home folder
        home = Path.home()
        for path in [Path(named)] if named else [home / ".netrc", home / "_netrc"]:
            with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
                if host in netrc.netrc(str(path)).hosts:
                    return True
    return False


def sweep_parameters() -> set[str]:
    """Return the names of the parameters that W&B's own sweep gives this run."""
    import yaml

    path = os.environ.get("WANDB_SWEEP_PARAM_PATH")
    if path:
        with suppress(OSError, yaml.YAMLError):
            found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            return set(found) if isinstance(found, dict) else set()
    return set()


def beside_parameters(config: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
    """Return a configuration that W&B keeps whole beside the parameters of its own sweep.

    W&B puts a parameter in the place of a key of the same name: ``method: relahash`` instead of all
    that the method consists of. Such a configuration is kept whole under ``config`` as well.

    >>> beside_parameters({"method": {"name": "csq"}, "seed": 0}, {"method"})
    {'seed': 0, 'config': {'method': {'name': 'csq'}, 'seed': 0}}
    """
    free = {key: value for key, value in config.items() if key not in taken}
    return free if len(free) == len(config) else free | {"config": dict(config)}


def rows(history: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the row of each step of a ``log.jsonl``, and the step."""
    row: dict[str, Any] = {}
    at = -1
    text = history.read_text(encoding="utf-8", errors="replace") if history.is_file() else ""
    for one in text.splitlines():
        try:
            line = parse_json(history, one, "log")
            step, where, epoch = int(line.pop("step")), line.pop("where"), line.pop("epoch")
            time = datetime.fromisoformat(line.pop("time")).timestamp()
        except (FileError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue  # no line of ours
        if row and step != at:
            yield row, at
            row = {}
        at = step
        values = {name: value for name, value in line.items() if not isinstance(value, str)}
        values |= {name: float(value) for name, value in line.items() if value in NOT_FINITE}
        row |= {f"{where}/{name}": value for name, value in values.items()}
        row |= {"epoch": epoch, "_timestamp": time}
    if row:
        yield row, at


NOT_FINITE = ("nan", "inf", "-inf")
"""How a ``log.jsonl`` has numbers that JSON does not know."""


def records(folder: Path, run_id: str) -> list[Path]:
    """Return the W&B records of a run below its folder, online ones too, the oldest first."""
    found = (folder / "wandb").glob("*run-*/run-*.wandb")
    own = f"run-{run_id}.wandb"
    return sorted(file for file in found if file.name == own and not file.parent.is_symlink())


def uploaded(record: Path) -> bool:
    """Whether a server has a record, or has begun to take it."""
    if not record.parent.name.startswith("offline-"):
        return True
    return any(record.with_name(record.name + end).exists() for end in (".synced", ".syncstate"))


def holds_figures(record: Path) -> bool:
    """Whether an offline record was written by ``evaluate.py``, and holds no training."""
    return (record.parent / FIGURES).exists()


def last_step(record: Path) -> int:
    """Return the last step of training in a record, -1 if it holds none or is unreadable."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(record)]
    last = -1
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60)  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return last
    for one in done.stdout.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            item = json.loads(one)["history"]["item"]
            if "epoch" in item:
                last = max(last, int(item["_step"]))
    return last


def id_of(run_id: str | None) -> str | None:
    """Return the id of a run at W&B: an agent of W&B's own sweeps has given it one already."""
    return os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else run_id


def is_complete(folder: Path, run_id: str | None) -> bool:
    """Whether W&B has a finished run to its end, or its offline record has."""
    try:
        return (folder / "wandb" / COMPLETE).read_text() == run_id
    except (OSError, UnicodeDecodeError):
        return False


def sync_command(folder: Path) -> str:
    """Return the command that uploads the offline records of a run.

    >>> sync_command(Path("outputs/a b/seed0"))
    "wandb sync 'outputs/a b/seed0/wandb'"
    """
    return shlex.join(["wandb", "sync", str(folder / "wandb")])


def sync_all_command(outputs: Path) -> str:
    """Return the command that uploads the offline records of all runs below a folder.

    Each folder is a call of its own: one damaged record stops only the call that it is part of.

    >>> sync_all_command(Path("my outputs"))
    "find 'my outputs' -type d -name wandb -prune -exec wandb sync {} ';'"
    """
    words = ["find", str(outputs), "-type", "d", "-name", "wandb", "-prune"]
    return shlex.join([*words, "-exec", "wandb", "sync", "{}", ";"]).replace("'{}'", "{}")


def has_offline_records(folder: Path) -> bool:
    """Whether there is something below a run folder that was not uploaded."""
    found = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    return any(not uploaded(file) for file in found)


def release(package: Any) -> tuple[int, ...]:
    """Return the major and minor number of an installed ``wandb``.

    >>> import types
    >>> release(types.SimpleNamespace(__version__="0.31.0rc1"))
    (0, 31)
    """
    return tuple(int(one) for one in re.findall(r"\d+", getattr(package, "__version__", ""))[:2])


def cut(text: str | None, most: int) -> Any:
    """Return a text of at most so many characters; the middle of a longer one is left out.

    >>> cut("abcdefghij", 7)
    'abc…hij'
    """
    if text is None or len(text) <= most:
        return text
    front = (most - 1) // 2
    return f"{text[:front]}…{text[len(text) - (most - 1 - front) :]}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested numbers under one name each; lists, texts and gaps are left out.

    >>> flat({"map": 0.5, "ties": {"best": 0.6}, "curve": [1, 2], "note": "all"})
    {'map': 0.5, 'ties/best': 0.6}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found[prefix + name] = value
    return found

"""Weights & Biases: offline without credentials, and without interactive questions.

The history at W&B is made from ``log.jsonl``, one row per step. A resumed run starts a new W&B
record, and an incomplete offline record would be uploaded with a gap, or would stop ``wandb sync``
for all others. So each session writes all rows that the server cannot have yet, and renames offline
records that the new one replaces.
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
"""Limit on the seconds of an upload at the end of a run; the rest stays on disk."""

MARKS_RESUMED = (0, 30)
"""The first release whose offline records can continue a run."""

MOST_NAME, MOST_TAG = 128, 64
"""Limits of W&B on the characters of names and groups, and of tags."""

ASIDE = ".replaced"
"""Suffix of an offline record that a later one replaces; ``wandb sync`` ignores it."""

FIGURES = "figures.txt"
"""File that marks an offline record without a history of training."""

COMPLETE = "complete.txt"
"""File in the folder ``wandb`` of a run: the id of a run that is complete at W&B or offline."""


class Wandb(Logger):
    """Log a run to Weights & Biases, on a server or offline.

    Errors of W&B do not end training: they are warnings, and the run continues without W&B.

    Args:
        project: The project the run belongs to.
        config: The resolved configuration, as plain containers.
        folder: The run folder; the files are in its subfolder ``wandb``.
        mode: ``auto`` follows ``WANDB_MODE`` and ``wandb offline``, and otherwise is online if
            there are credentials. ``online`` falls back to ``offline``, with a warning, without
            credentials or without an answer of the server.
        entity: The user or team; None for that of the account.
        group: Group of the run, such as its method.
        tags: Tags of the run.
        name: Display name of the run.
        run_id: Id of the run, equal for resumed sessions.
        job_type: ``train``, ``comparison`` or ``report``.
        init_timeout: Seconds to wait for the server before going offline.
        history: ``log.jsonl`` of training, to upload all its rows; None to add to a run.

    Raises:
        ConfigError: The package is not installed, or an option is invalid.
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
        self._row: dict[str, Any] = {}  # of the current step
        self._step = -1
        self._first = 0  # the first step that W&B does not have
        self._folder = Path(folder)
        self._history = None if history is None else Path(history)
        swept = "WANDB_SWEEP_ID" in os.environ
        self._id = id_of(run_id)
        self._options: dict[str, Any] = {
            "project": project or None,
            "config": beside_parameters(config, sweep_parameters()) if swept else dict(config),
            "dir": str(folder),
            "entity": entity,
            "group": cut(group, MOST_NAME),
            "tags": list(dict.fromkeys(cut(str(tag), MOST_TAG) for tag in tags if str(tag))),
            "name": cut(name, MOST_NAME),
            "id": None if swept else run_id,
            "job_type": job_type,
            # The default would return the previous job's run in a sweep within one process.
            "reinit": "finish_previous",
            # Add to an existing run of this id; also read by `wandb sync`.
            "resume": "allow" if self._id else None,
        }
        self._timeout = init_timeout
        self.mode = "disabled"
        try:
            self.mode = self._open(resolve_mode(mode, self._wandb))
            self._complete_history()
        except (Exception, SystemExit) as error:
            self._give_up("cannot start", error)

    @staticmethod
    def refused(options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Return the invalid options of the logger: key, fault and what to type instead.

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
                fault = f"has {len(value)} characters, and W&B takes {MOST_NAME}."
                wrong.append((key, fault, f"Try logger.wandb.{key}={instead}"))
            elif bad := sorted(set(re.findall(pattern, value))):
                text = " ".join("a blank" if char == " " else char for char in bad)
                fault = f"{value!r} holds {text} which W&B does not allow."
                wrong.append((key, fault, f"Try logger.wandb.{key}={instead}"))
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
        """Write the numbers of the report into the run's summary, and end the run."""
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
        """End the run, also after an exception, so that the next job of a sweep starts another."""
        self._write_row()
        self._finish(failed)

    def _finish(self, failed: bool = False) -> bool:
        """End the run; return whether W&B succeeded."""
        if self._run is None:
            return False
        run, self._run = self._run, None
        try:
            run.finish(exit_code=int(failed))
        except Exception as error:  # the files are on disk in any case
            log.warning("wandb could not finish its upload: %r. Try wandb sync later.", error)
            self._end_service()
            return False
        return True

    def _write_row(self) -> None:
        """Log the complete row of a step; W&B refuses later values of a step."""
        row, self._row = self._row, {}
        if row and self._run is not None:
            try:
                self._run.log(row, step=self._step)
            except Exception as error:
                self._give_up("does not take values", error)

    def _give_up(self, what: str, error: BaseException) -> None:
        reason = str(error).strip().splitlines() or [""]
        name = type(error).__name__
        log.warning("wandb %s, the run goes on without: %s: %s", what, name, reason[0])
        run, self._run = self._run, None
        self.mode = "disabled"
        if run is not None:
            with suppress(Exception):
                run.finish(exit_code=1)
        self._end_service()

    def _end_service(self) -> None:
        """End W&B's process after a failure, to avoid a traceback at the exit of Python."""
        with suppress(Exception, SystemExit):
            self._wandb.teardown(exit_code=1)

    def _open(self, mode: str) -> str:
        """Start the run in a mode, or offline if online fails; return the mode."""
        if mode == "online" and not has_credentials():  # wandb would prompt at the terminal
            log.warning("wandb goes offline: no credentials. Run wandb login to change that.")
            mode = "offline"
        if mode == "online":
            try:
                self._start("online")
            except Exception as error:  # no answer, no permission, an older server
                log.warning("wandb goes offline: %s", error)
                mode = "offline"
        if mode != "online":
            self._start(mode)
        return mode

    def _start(self, mode: str) -> None:
        settings = {"silent": True, "console": "off", "init_timeout": self._timeout}
        if "finish_timeout" in self._wandb.Settings.model_fields:  # not in the older ones
            settings |= {"finish_timeout": FINISH_TIMEOUT, "finish_timeout_raises": False}
        if (self._folder / "wandb").is_symlink():  # a run folder may come from an untrusted source
            raise OSError(f"{self._folder / 'wandb'} is a symbolic link; remove it")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            mode=mode, settings=self._wandb.Settings(**settings), **self._options
        )

    def _complete_history(self) -> None:
        """Upload the rows of earlier sessions, and rename the records that they replace."""
        if self.mode == "disabled":
            return
        files = getattr(self._run, "dir", None)
        own = None if files is None else Path(files).parent.resolve()  # of the new record
        existing = [] if self._id is None else records(self._folder, self._id)
        earlier = [file for file in existing if file.parent.resolve() != own]
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
    """Import ``wandb``; raise ConfigError if it is not installed."""
    return import_extra("wandb", "logger=wandb", "logger=console")


def resolve_mode(mode: str, package: Any = None) -> str:
    """Return the mode for ``auto`` on this machine, or another mode unchanged.

    Args:
        mode: One of `MODES`.
        package: The module ``wandb``, for the setting of ``wandb offline`` in this folder.
    """
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return "disabled"
    configured = os.environ.get("WANDB_MODE", "").lower()
    if not configured and package is not None:
        with suppress(Exception):
            configured = str(package.setup().settings.mode)
            configured = "" if configured == "online" else configured  # also the default
    configured = LEGACY_MODES.get(configured, configured)
    if configured in MODES[1:]:
        return configured
    return "online" if has_credentials() else "offline"


def has_credentials() -> bool:
    """Return whether the environment or the netrc file has a key."""
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
    """Return the names of the parameters that a sweep of W&B sets for this run."""
    import yaml

    path = os.environ.get("WANDB_SWEEP_PARAM_PATH")
    if path:
        with suppress(OSError, yaml.YAMLError):
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            return set(values) if isinstance(values, dict) else set()
    return set()


def beside_parameters(config: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
    """Return a configuration without the keys that parameters of a W&B sweep overwrite.

    W&B replaces a key by a parameter of the same name: ``method: relahash`` instead of the options
    of the method. Such a configuration is also stored under ``config``.

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
    for text_line in text.splitlines():
        try:
            line = parse_json(history, text_line, "log")
            step, where, epoch = int(line.pop("step")), line.pop("where"), line.pop("epoch")
            time = datetime.fromisoformat(line.pop("time")).timestamp()
        except (FileError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue  # not a line of the log
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
"""Strings for numbers that JSON does not have."""


def records(folder: Path, run_id: str) -> list[Path]:
    """Return the W&B records of a run, online and offline, the oldest first."""
    files = (folder / "wandb").glob("*run-*/run-*.wandb")
    own = f"run-{run_id}.wandb"
    return sorted(file for file in files if file.name == own and not file.parent.is_symlink())


def uploaded(record: Path) -> bool:
    """Return whether the upload of a record has begun."""
    if not record.parent.name.startswith("offline-"):
        return True
    return any(record.with_name(record.name + end).exists() for end in (".synced", ".syncstate"))


def holds_figures(record: Path) -> bool:
    """Return whether an offline record is of ``evaluate``, without training."""
    return (record.parent / FIGURES).exists()


def last_step(record: Path) -> int:
    """Return the last step of training in a record; -1 if there is none."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(record)]
    last = -1
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return last
    for line in done.stdout.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            item = json.loads(line)["history"]["item"]
            if "epoch" in item:
                last = max(last, int(item["_step"]))
    return last


def id_of(run_id: str | None) -> str | None:
    """Return the id of a run at W&B; in a sweep of W&B, the id set by its agent."""
    return os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else run_id


def is_complete(folder: Path, run_id: str | None) -> bool:
    """Return whether a finished run is complete at W&B or offline."""
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

    Each folder has its own call, which a damaged record stops.

    >>> sync_all_command(Path("my outputs"))
    "find 'my outputs' -type d -name wandb -prune -exec wandb sync {} ';'"
    """
    words = ["find", str(outputs), "-type", "d", "-name", "wandb", "-prune"]
    return shlex.join([*words, "-exec", "wandb", "sync", "{}", ";"]).replace("'{}'", "{}")


def has_offline_records(folder: Path) -> bool:
    """Return whether a run folder has offline records that were not uploaded."""
    return any(not uploaded(file) for file in (folder / "wandb").glob("offline-run-*/run-*.wandb"))


def release(package: Any) -> tuple[int, ...]:
    """Return the major and minor number of an installed ``wandb``.

    >>> import types
    >>> release(types.SimpleNamespace(__version__="0.31.0rc1"))
    (0, 31)
    """
    return tuple(int(part) for part in re.findall(r"\d+", getattr(package, "__version__", ""))[:2])


def cut(text: str | None, most: int) -> Any:
    """Truncate a text to ``most`` characters by leaving out its middle.

    >>> cut("abcdefghij", 7)
    'abc…hij'
    """
    if text is None or len(text) <= most:
        return text
    front = (most - 1) // 2
    return f"{text[:front]}…{text[len(text) - (most - 1 - front) :]}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested numbers to names with slashes; leave out lists, texts and None.

    >>> flat({"map": 0.5, "ties": {"best": 0.6}, "curve": [1, 2], "note": "all"})
    {'map': 0.5, 'ties/best': 0.6}
    """
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            result[prefix + name] = value
    return result

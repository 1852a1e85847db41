"""Weights & Biases: offline without credentials, and without interactive questions.

The history at W&B is made from ``log.jsonl``, one row per step. A resumed run starts a new W&B
record, and an incomplete offline record would be uploaded with a gap, or would stop ``wandb sync``
for all others. So each session writes all rows that the server cannot have yet, and renames offline
records that the new one replaces.
"""

import io
import json
import logging
import netrc
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from deephash.errors import ConfigError
from deephash.loggers.jsonl import make_row, read_rows
from deephash.loggers.logger import Lines, Logger, Picture
from deephash.loggers.summary import flat, summary_of
from deephash.utils import program
from deephash.utils.bounds import Name, Positive
from deephash.utils.extras import import_extra

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

METRICS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("epoch", {"hidden": True}),
    ("images_seen", {"hidden": True}),
    ("train/*", {"step_metric": "images_seen", "summary": "none"}),
    ("train/loss", {"step_metric": "images_seen", "summary": "last"}),
    ("query/map", {"step_metric": "epoch", "summary": "max"}),
    ("val/map", {"step_metric": "epoch", "summary": "max"}),
    ("val/agreement", {"step_metric": "epoch", "summary": "max"}),
)
"""Definitions of metrics: the horizontal axis, which does not depend on the batch size, and the
value of the runs table. Terms of the loss have none there, since ``summary_of`` chooses it."""

COMPLETE = "complete.txt"
"""File in the folder ``wandb`` of a run: the id of a run that is complete at W&B or offline."""


class Wandb(Logger):
    """Log a run to Weights & Biases, on a server or offline.

    Errors of W&B do not end training: they are warnings, and the run continues without W&B.

    Args:
        project: The project the run belongs to.
        config: The resolved configuration, as plain containers. W&B has it under the key
            ``config``.
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
        parameters: What runs are grouped by, at the top of the configuration at W&B.
        upload: Whether the encoder of a run, its card and its codes become an artifact.

    Raises:
        ConfigError: The package is not installed, or an option is invalid.
    """

    keeps_results: ClassVar[bool] = True

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
        parameters: Mapping[str, Any] | None = None,
        upload: bool = True,
    ) -> None:
        if wrong := self.refused({"mode": mode, "project": project, "entity": entity}):
            key, what, instead = wrong[0]
            raise ConfigError(f"logger.wandb.{key}  {what} {instead}")
        self._wandb = load_package()
        self._run: Any = None
        self._url = ""
        self._row: dict[str, Any] = {}  # of the current step
        self._step = -1
        self._first = 0  # the first step that W&B does not have
        self._folder = Path(folder)
        self._history = None if history is None else Path(history)
        self._upload = upload
        self._parameters = dict(parameters or {})
        swept = "WANDB_SWEEP_ID" in os.environ
        self._id = id_of(run_id)
        self._options: dict[str, Any] = {
            "project": project or None,
            # A filter of W&B does not find nested keys, and a sweep of W&B replaces top keys.
            "config": {**self._parameters, "config": dict(config)},
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

    @classmethod
    def require(cls) -> None:
        load_package()

    @classmethod
    def is_complete(cls, folder: Path, run_id: Callable[[], str]) -> bool:
        return is_complete(folder, id_of(run_id()))

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
        self._row |= make_row(where, values, epoch)

    def report(self, report: Mapping[str, Any], step: int) -> None:
        """Write the summary of the run and a table of all metrics, and end the run."""
        if self._run is None:
            return
        self._write_row()
        try:
            if self._run is not None:
                self._run.summary.update(summary_of(report))
                rows = sorted(flat(report.get("metrics", {})).items())
                self.table("metrics", ("metric", "value"), rows)
        except Exception as error:
            self._give_up("does not take the report", error)
        if self._finish() and self._history is not None and self._id and self.mode != "disabled":
            with suppress(OSError):
                (self._folder / "wandb" / COMPLETE).write_text(self._id)

    def summary(self, report: Mapping[str, Any], folder: Path) -> None:
        """Print the address of an online run, or the command that uploads an offline one."""
        if self._url:
            print(f"W&B     {self._url}")
        if self.mode == "offline":
            print(f"W&B     offline; to upload it: {sync_command(self._folder)}")

    def figures(self, paths: Mapping[str, Path]) -> None:
        if self._run is None:
            return
        try:
            image = self._wandb.Image
            self._log({f"figures/{name}": image(str(path)) for name, path in paths.items()})
        except Exception as error:
            self._give_up("does not take the figures", error)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if self._run is None:
            return
        try:
            data = [[self._cell(value) for value in row] for row in rows]
            table = self._wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)
            self._log({f"tables/{name}": table})
        except Exception as error:
            self._give_up("does not take a table", error)

    def _log(self, values: Mapping[str, Any]) -> None:
        """Log values in the row of the last step of this session."""
        self._write_row()
        self._run.log(values, step=None if self._step < 0 else self._step)

    def _cell(self, value: Any) -> Any:
        if isinstance(value, Picture):
            return self._wandb.Image(value.pixels, caption=value.caption)
        return value

    def lines(self, name: str, lines: Lines, title: str, x_label: str) -> None:
        if self._run is None:
            return
        try:
            chart = self._wandb.plot.line_series(
                [[x for x, _ in points] for points in lines.values()],
                [[y for _, y in points] for points in lines.values()],
                list(lines),
                title,
                x_label,
            )
            self._log({f"charts/{name}": chart})
        except Exception as error:
            self._give_up("does not take a chart", error)

    def artifact(self, name: str, kind: str, paths: Mapping[str, Path]) -> None:
        if self._run is None or (kind == "model" and not self._upload):
            return
        try:
            artifact = self._artifact(name, kind, self._parameters)
            for inside, path in paths.items():
                # Files of a run are not copied: a copy of each best.pt would fill the disk.
                policy = "immutable" if kind == "model" else "mutable"
                artifact.add_file(str(path), name=inside, policy=policy, skip_cache=True)
            self._run.log_artifact(artifact)
        except Exception as error:
            self._give_up("does not take the files", error)

    def uses_data(self, name: str, uri: str, facts: Mapping[str, Any]) -> None:
        if self._run is None:
            return
        try:
            artifact = self._artifact(name, "dataset", facts)
            with redirect_stderr(io.StringIO()):  # a warning that the URI has no checksum
                artifact.add_reference(uri, name="data", checksum=False)
            # `use_artifact` waits for the server, and refuses offline runs.
            self._run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
        except Exception as error:
            log.warning("wandb does not record which data the run used: %r", error)

    def _artifact(self, name: str, kind: str, metadata: Mapping[str, Any]) -> Any:
        allowed = re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:MOST_NAME]
        return self._wandb.Artifact(allowed, type=kind, metadata=dict(metadata))

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
        else:
            self._url = str(getattr(self._run, "url", None) or "")
        return mode

    def _start(self, mode: str) -> None:
        settings: dict[str, Any] = {"silent": True, "init_timeout": self._timeout}
        if self._history is None:  # keeps the console log of training
            settings["console"] = "off"
        if (checkout := program.checkout()) is not None:
            settings["git_root"] = str(checkout)  # W&B searches the run folder
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
        for metric, definition in METRICS:
            self._run.define_metric(metric, **definition)
        if self.mode == "online":
            resumed = getattr(self._run, "resumed", False)
            self._first = int(getattr(self._run, "starting_step", 0)) if resumed else 0
        else:
            steps = [last_step(file) for file in earlier if uploaded(file)]
            self._first = 1 + max(steps, default=-1)
        for row, step in read_rows(self._history):
            if step >= self._first:
                self._run.log(row, step=step)
                self._first, self._step = step + 1, step
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

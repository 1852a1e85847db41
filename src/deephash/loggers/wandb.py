"""Weights & Biases: offline unless there are credentials, and never a question asked."""

import logging
import netrc
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deephash.errors import ConfigError
from deephash.extras import import_extra
from deephash.loggers.logger import Logger

log = logging.getLogger(__name__)

MODES = ("auto", "online", "offline", "disabled")
FINISH_TIMEOUT = 120.0
"""Seconds an upload may hold up the end of a run; what is left of it stays on disk."""


class Wandb(Logger):
    """Writes a run where the ``wandb`` tools find it, on this machine or on a server.

    Args:
        project: The project the run belongs to.
        config: The folded configuration, as plain containers.
        folder: The run folder; the files land in ``wandb`` under it.
        mode: ``auto`` follows the environment's ``WANDB_MODE``, and without one goes online only
            where credentials exist. ``online`` falls back to ``offline``, with a warning, when
            there are no credentials or no server answers.
        entity: The user or team; by default the account's own.
        group: What the run is grouped under, such as its method.
        tags: Words to find the run by.
        name: The run's name on the page.
        run_id: Tells a resumed run that it is the same one.
        job_type: What is done: ``train``, ``comparison`` or ``report``.
        init_timeout: Seconds to wait for the server before going on offline.
    """

    def __init__(
        self,
        project: str,
        config: Mapping[str, Any],
        folder: str | Path,
        mode: str = "auto",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        name: str | None = None,
        run_id: str | None = None,
        job_type: str = "train",
        init_timeout: float = 15.0,
    ) -> None:
        if mode not in MODES:
            raise ConfigError(f"logger.mode is {mode!r}. Choose from: {', '.join(MODES)}")
        self._wandb = import_extra("wandb", "logger=wandb", "logger=console")
        self._run: Any = None
        self._asked: dict[str, Any] = {
            "project": project,
            "config": dict(config),
            "dir": str(folder),
            "entity": entity,
            "group": group,
            "tags": list(tags),
            "name": name,
            # An agent of W&B's own sweeps has given the run its id already, in WANDB_RUN_ID.
            "id": None if "WANDB_SWEEP_ID" in os.environ else run_id,
            "job_type": job_type,
            # In a sweep inside one process the default would hand back the previous job's run.
            "reinit": "finish_previous",
        }
        self._timeout = init_timeout
        self.mode = self._open(resolve_mode(mode))

    def scalars(self, where: str, values: Mapping[str, float], step: int, epoch: int) -> None:
        if self._run is not None:
            named = {f"{where}/{name}": value for name, value in values.items()}
            self._run.log(named | {"epoch": epoch}, step=step)

    def report(self, report: Mapping[str, Any], step: int) -> None:
        """Write the report's numbers into the run's summary and end the run."""
        if self._run is not None:
            self._run.summary.update(flat(report.get("metrics", {})))
            self._run.summary.update(flat(report.get("selection", {}), "selection/"))
            self.close()

    def figures(self, paths: Mapping[str, Path]) -> None:
        if self._run is not None:
            image = self._wandb.Image
            self._run.log({f"figures/{name}": image(str(path)) for name, path in paths.items()})

    def artifact(self, name: str, kind: str, paths: Mapping[str, Path]) -> None:
        if self._run is not None:
            made = self._wandb.Artifact(re.sub(r"[^A-Za-z0-9_.-]", "-", name), type=kind)
            for inside, path in paths.items():
                made.add_file(str(path), name=inside)
            self._run.log_artifact(made)

    def close(self, failed: bool = False) -> None:
        """End the run, also after an exception, or the next job of a sweep would write into it."""
        if self._run is not None:
            run, self._run = self._run, None
            try:
                run.finish(exit_code=int(failed))
            except Exception as error:  # whatever the server did: the files are on this disk
                log.warning("wandb could not finish its upload: %r. Try wandb sync later.", error)

    def _open(self, mode: str) -> str:
        """Start the run in this mode, or offline where online cannot be had; say which it was."""
        if mode == "online" and not has_credentials():  # wandb would ask at the terminal
            log.warning("wandb goes offline: no credentials. Run wandb login to change that.")
            mode = "offline"
        if mode == "online":
            errors = self._wandb.errors
            try:
                self._start("online", resume="allow")
            except (errors.CommError, errors.UsageError) as error:
                log.warning("wandb goes offline: %s", error)
                mode = "offline"
        if mode != "online":
            self._start(mode)
        return mode

    def _start(self, mode: str, **more: Any) -> None:
        wanted = {"silent": True, "console": "off", "init_timeout": self._timeout}
        if "finish_timeout" in self._wandb.Settings.model_fields:  # not in the older ones
            wanted |= {"finish_timeout": FINISH_TIMEOUT, "finish_timeout_raises": False}
        Path(self._asked["dir"]).mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            mode=mode, settings=self._wandb.Settings(**wanted), **self._asked, **more
        )


def resolve_mode(mode: str) -> str:
    """What ``auto`` comes to on this machine; any other mode stays as it is."""
    if mode != "auto":
        return mode
    wished = os.environ.get("WANDB_MODE", "").lower()
    if wished in MODES[1:]:
        return wished
    return "online" if has_credentials() else "offline"


def has_credentials() -> bool:
    """Whether wandb would find a key without asking: in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname or "api.wandb.ai"
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if host in netrc.netrc(str(path)).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


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

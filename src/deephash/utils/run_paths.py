"""Names of the files in a run folder."""

from pathlib import Path

from deephash.utils.files import expand_path

ERROR, JOB_LOG = "error.txt", "output.log"
"""Why a job of a sweep failed, and its output."""

LATEST = "latest"
"""Symbolic link in the folder of outputs to the run that began last."""

NAME_PARTS = 4
"""Folders in the name of a run: dataset, method, bits, seed with further values."""


def name_of(folder: str) -> str:
    """Return the name of the run in a folder, which may be typed in any way.

    >>> name_of("outputs/a/../digits/csq/8bit/seed0/")
    'digits/csq/8bit/seed0'
    """
    return "/".join(expand_path(folder).resolve().parts[-NAME_PARTS:])


class RunPaths:
    """Paths of the files in a run folder.

    Args:
        path: the folder; it need not exist.

    >>> RunPaths(Path("outputs/a")).codes("last").as_posix()
    'outputs/a/codes-last.npz'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.overrides_file = path / "overrides.txt"
        self.launch_file = path / "launch.txt"
        self.id_file = path / "run_id.txt"
        self.origin_file = path / "origin.json"
        self.history = path / "log.jsonl"
        self.last = path / "last.pt"
        self.best = path / "best.pt"
        self.report_file = path / "report.json"
        self.report_page = path / "report.html"
        self.nearest_file = path / "nearest.json"
        self.evaluation_file = path / "evaluation.json"
        self.evaluation_page = path / "evaluation.html"
        self.error = path / ERROR
        self.job_log = path / JOB_LOG

    def checkpoint(self, name: str) -> Path:
        """Return the checkpoint called ``best`` or ``last``."""
        return self.path / f"{name}.pt"

    def codes(self, checkpoint: str = "best") -> Path:
        """Return the file of the codes of a checkpoint."""
        suffix = "" if checkpoint == "best" else f"-{checkpoint}"
        return self.path / f"codes{suffix}.npz"

    def best_of_epoch(self, epoch: int) -> Path:
        """Return the best encoder of a run that goes on; ``best.pt`` is its name in the end."""
        return self.path / f"best-epoch{epoch:04d}.pt"

    def best_of_epochs(self) -> list[Path]:
        """Return all such encoders, sorted by epoch."""
        return sorted(self.path.glob("best-epoch*.pt"))

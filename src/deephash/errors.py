"""The errors a user can mend: what is wrong, where, and what to do instead."""


class DeephashError(Exception):
    """Base of every error whose message is meant for the user, without a traceback."""


class ConfigError(DeephashError):
    """The configuration asks for something that does not exist or cannot work."""


class DataError(DeephashError):
    """Images, labels or a split are missing, unreadable or contradict each other."""


class TrainingError(DeephashError):
    """Training cannot go on: a loss or gradient that is not finite, a foreign checkpoint."""


class BusyError(TrainingError):
    """Another process is training the same run."""


class FileError(DataError):
    """A file cannot be read, or does not hold what it should.

    Args:
        path: of the file.
        reason: what is wrong with it, a clause such as ``it is cut off``.
        what: kind of the file, such as ``split file``.
        advice: what to do about it, a sentence; empty if nothing is known.
    """

    def __init__(self, path: object, reason: str, what: str = "file", advice: str = "") -> None:
        super().__init__(path, reason, what, advice)
        self.path, self.reason, self.what, self.advice = path, reason, what, advice

    def __str__(self) -> str:
        message = f"cannot read the {self.what} {self.path}: {self.reason}"
        return f"{message}\n  {self.advice}" if self.advice else message

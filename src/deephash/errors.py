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

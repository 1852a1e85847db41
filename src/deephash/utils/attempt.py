"""Steps after a result is on disk, whose failure is a warning."""

import contextlib
import logging
from collections.abc import Iterator

from deephash.errors import DeephashError

log = logging.getLogger("deephash")


@contextlib.contextmanager
def attempt(what: str) -> Iterator[None]:
    """Turn an exception into a warning, because the result is on disk already.

    Args:
        what: is made; it begins the warning.

    Example:
        >>> with attempt("the page of the run"):
        ...     raise ValueError("no font")
    """
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, DeephashError) else repr(error)
        log.warning("%s could not be made, and the result is complete without: %s", what, reason)
        log.debug("", exc_info=True)

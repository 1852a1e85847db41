"""Checks of names that become components of a path, so that none leaves its folder."""

import re

LONGEST = 200
"""Bytes of a name in UTF-8: suffixes are added, and filesystems allow 255."""

LIMIT = 255
"""Bytes that filesystems allow in one component of a path."""


def name_fault(value: object) -> str | None:
    """Return why a value cannot be one component of a path, such as a folder in ``paths.outputs``.

    Blanks, letters of any language and characters such as ``+ = , ( )`` are allowed.

    Args:
        value: of a configuration, of any type.

    Returns:
        The fault, to follow the name in a message; None if the value is a plain name.

    >>> name_fault("CUB-200 birds"), name_fault("../x")
    (None, 'has a path separator')
    """
    if not isinstance(value, str):
        return f"is a {type(value).__name__}, not a text"
    if not value.strip():
        return "is empty"
    if re.search(r"[/\\]", value):
        return "has a path separator"
    if any(not char.isprintable() for char in value):
        return "has a character that cannot be printed"
    if value[0] in ".-~" or value != value.strip():
        return "begins with one of . - ~, or begins or ends with a blank"
    if len(value.encode(errors="replace")) > LONGEST:
        return f"has more than {LONGEST} bytes"
    return None


TRUNCATED = re.compile(r"~[0-9a-f]{12}$")
"""The end of a truncated run name: a part of the digest of the whole one."""


def is_below(path: object) -> bool:
    """Return whether a relative path stays below the folder that it is joined to.

    >>> is_below("figures/a.svg"), is_below("../a.svg"), is_below("/a.svg")
    (True, False, False)
    """
    if not isinstance(path, str) or not path or re.match(r"[/\\]|[A-Za-z]:", path):
        return False
    return ".." not in re.split(r"[/\\]", path) and path.isprintable()


def truncate(text: str, mark: str, most: int, head: int) -> str:
    """Truncate a name that is too long for a filesystem, and append a mark.

    Args:
        text: the name.
        mark: appended to truncated names to keep them distinct.
        most: characters of a name that is not truncated.
        head: characters that are kept of one that is.
    """
    if len(text) <= most and len(text.encode()) <= LIMIT:
        return text
    cut = text[:head]
    while len(cut.encode()) + len(mark.encode()) > LIMIT:
        cut = cut[:-1]
    return cut + mark

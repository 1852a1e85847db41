"""What is wrong with a configuration, and the error that reports it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deephash.errors import ConfigError


@dataclass(frozen=True)
class Fault:
    """One fault of a configuration.

    Attributes:
        key: the key at fault.
        message: what is wrong with it, the end of a sentence that begins with the key.
        hint: what to type instead, a sentence.
    """

    key: str
    message: str
    hint: str


def raise_faults(faults: Sequence[Fault], composed_from: Iterable[object] = ()) -> None:
    """Raise one ConfigError that lists all faults; return if there are none.

    Args:
        faults: what is wrong.
        composed_from: the command line, or the file.
    """
    if not faults:
        return
    width = max(len(fault.key) for fault in faults)
    lines = [f"config: {len(faults)} problem{'s' if len(faults) > 1 else ''}", ""]
    for fault in faults:
        lines.append(f"  {fault.key:<{width}}  {fault.message}")
        lines.append(f"  {'':<{width}}  {fault.hint}")
    lines += ["", f"composed from: {' '.join(map(str, composed_from)) or 'the defaults'}"]
    raise ConfigError("\n".join([*lines, "nothing was loaded or written"]))

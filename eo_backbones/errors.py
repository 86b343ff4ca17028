"""The one exception that means "the caller can fix this".

Library code raises :class:`UserError` with a message that says what was seen, what is allowed and what to type
next; the two commands print that message as one line and exit with status 2. Every other exception is a bug.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

INTERRUPTED = 130  # exit status after Ctrl-C, the shell's


_ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)(?:[^/\s@'\"]*@)?([^\s?'\"]*)(\?[^\s'\",;)]*[^\s'\",;:.)])?")


def without_secrets(text: str) -> str:
    """Return a text in which addresses have neither user nor password, and ``?...`` for what begins with ``?``.

    The signature of a signed address (Azure, Amazon S3, Google) stands there.
    """
    return _ADDRESS.sub(lambda match: match[1] + match[2] + ("?..." if match[3] else ""), text)


class UserError(ValueError):
    """Wrong input: a path, name, unit, file or value that the caller can correct.

    Args:
        message: one line; addresses in it are shown :func:`without_secrets`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(message))


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """Return the error for a name that is not in a closed list, with the nearest names first."""
    choices = list(allowed)
    nearest = get_close_matches(name, choices, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(nearest)}?" if nearest else f"allowed: {', '.join(choices)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")

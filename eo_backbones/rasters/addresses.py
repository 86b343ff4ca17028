"""Addresses on a network, and how they are shown: without passwords, signatures and tokens."""

import re

_ADDRESS = re.compile(
    r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)(?:[^/\s@'\"]*@)?(?P<rest>[^\s?#'\"]*)(?P<query>[?#][^\s'\"]*)?"
)


def without_secrets(text: str) -> str:
    """Return an address, or a text with addresses in it, without user names and with ``...`` for what follows a ``?``.

    A signed address (Azure, Amazon S3, Google) has its signature there.
    """
    return _ADDRESS.sub(lambda match: match["scheme"] + match["rest"] + ("?..." if match["query"] else ""), text)

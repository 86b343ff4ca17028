"""``eo-backbones`` as a user types it, in this process."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from eo_backbones.cli import main


class Ended(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run the command with these arguments."""

    def run(*arguments: object) -> Ended:
        with pytest.raises(SystemExit) as end:
            main.main(list(map(str, arguments)))
        return Ended(int(end.value.code or 0), *capsys.readouterr())

    return run

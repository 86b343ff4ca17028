"""Checkpoints: atomic, readable without pickle, the last two kept, damaged ones passed over."""

import logging
import pickle
from pathlib import Path

import pytest
import torch

from eo_backbones.errors import UserError
from eo_backbones_train.pretraining.checkpoint import (
    checkpoints,
    newest_checkpoint,
    random_states,
    read_checkpoint,
    remove_unfinished,
    restore_random_states,
    save_checkpoint,
)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    content = {"step": 7, "weights": {"a": torch.arange(5.0)}, "window": [0.5, 0.25], "machine": {"graph": False}}
    path = save_checkpoint(tmp_path, 7, content)
    back = read_checkpoint(path)
    assert torch.equal(back["weights"]["a"], content["weights"]["a"])  # type: ignore[index]
    assert {key: back[key] for key in ("step", "window", "machine")} == {
        "step": 7,
        "window": [0.5, 0.25],
        "machine": {"graph": False},
    }


def test_the_last_two_are_kept_and_the_newest_found(tmp_path: Path) -> None:
    for step in (5, 90, 1000, 1200):
        save_checkpoint(tmp_path, step, {"step": step})
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000001000.pt", "step-000001200.pt"]
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["step"] == 1200


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "absent") is None


def test_a_half_written_checkpoint_is_passed_over_with_a_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, 10, {"step": 10, "weights": torch.zeros(1000)})
    newest = save_checkpoint(tmp_path, 20, {"step": 20, "weights": torch.zeros(1000)})
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "step-000000030.pt.unfinished").write_bytes(whole[:100])
    with caplog.at_level(logging.WARNING):
        found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["step"] == 10
    assert "step-000000030.pt.unfinished" in caplog.text
    assert "step-000000020.pt" in caplog.text
    remove_unfinished(tmp_path)
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize("damage", [b"", b"PK", b"not a checkpoint at all"])
def test_a_damaged_file_is_a_user_error(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "step-000000001.pt"
    path.write_bytes(damage)
    with pytest.raises(UserError, match=r"step-000000001\.pt cannot be read"):
        read_checkpoint(path)


class _RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code of a checkpoint ran')",))


def test_a_checkpoint_with_code_inside_is_refused_and_the_code_not_run(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.pt"
    torch.save({"step": 1, "trap": _RunsCode()}, path)
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps({"step": 1, "trap": _RunsCode()}))
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(path)


def test_a_failed_write_leaves_the_earlier_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 1, {"step": 1})

    def full(content: object, stream: object) -> None:
        stream.write(b"begun")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"No space left on device.*MiB free.*--resume"):
        save_checkpoint(tmp_path, 2, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.pt"]


def test_random_states_return_to_where_they_were() -> None:
    states = random_states()
    first = torch.rand(3)
    restore_random_states(states)
    assert torch.equal(torch.rand(3), first)

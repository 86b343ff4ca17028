"""A pushed folder is one commit that loads everywhere, and a push that failed anywhere is finished by the next one."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import EvalResult, ModelCardData
from safetensors.torch import load_file, save_file
from torch import nn

import eo_backbones
from eo_backbones.errors import UserError
from eo_backbones.files import sha256_of
from eo_backbones.hub import folder
from eo_backbones.push import check_folder, push
from support.hub_fixtures import RunPython
from support.hub_http import Fault, Hub, Outage
from support.hub_store import git_blob_id
from support.typed_command import Ended

REPO = "acme/eo_resnet50.toy"


def card(**changes: object) -> str:
    """A card with a licence and one result."""
    result = EvalResult("image-classification", "eurosat-ms", "eurosat-ms", "f1", 0.5, dataset_config="B04")
    fields = {"license": "cc-by-4.0", "model_name": "toy", "eval_results": [result], **changes}
    return f"---\n{ModelCardData(**fields).to_yaml()}\n---\n\n# toy\n"


def complete(path: Path, model: nn.Module) -> Path:
    """Make a folder of weights and config one that may be pushed."""
    folder.save_golden(path, model, torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(5)))
    record = {"name": "toy", folder.DIGEST_KEY: sha256_of(path / folder.WEIGHTS_FILE)}
    (path / folder.RECIPE_FILE).write_text(json.dumps(record))
    (path / "README.md").write_text(card())
    (path / ".eval_results").mkdir()
    (path / ".eval_results" / "eurosat-ms.yaml").write_text("[]\n")
    return path


@pytest.fixture
def small(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A small encoder of another architecture, ready to be pushed."""
    path = shutil.copytree(tiny_encoder, tmp_path / "folder")
    return complete(path, eo_backbones.create_model(f"local-dir:{tiny_encoder}"))


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_write")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits between its own attempts."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def commits(hub: Hub, repo_id: str = REPO) -> list[str]:
    """Ids from the newest commit of main to the first."""
    repository = hub.store.repositories[repo_id]
    found, commit = [], repository.at("main")
    while commit is not None:
        found.append(commit.sha)
        commit = repository.commits.get(commit.parent or "")
    return found


def held(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    """What the repository holds, less what the Hub itself put there."""
    commit = hub.store.repositories[REPO].at(revision)
    assert commit is not None
    return {name: hub.store.content(file) for name, file in commit.files.items() if name != ".gitattributes"}


def contents(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_folder_becomes_one_tagged_commit(hub: Hub, small: Path) -> None:
    pushed = push(small, REPO)
    (newest, first) = commits(hub)
    repository = hub.store.repositories[REPO]
    assert repository.tags == {"v1": newest} == {pushed.tag: pushed.commit}
    assert repository.commits[newest].parent == first
    assert held(hub) == contents(small)
    assert ".eval_results/eurosat-ms.yaml" in pushed.uploaded
    assert (pushed.created, pushed.private) == (True, False)
    assert pushed.sha256 == sha256_of(small / "model.safetensors")
    assert pushed.golden <= 1e-4
    (request,) = hub.requested("POST", "/commit/main")
    assert request.status == 200


def test_the_tag_is_set_after_everything_was_loaded_back(hub: Hub, small: Path) -> None:
    push(small, REPO)
    order = [f"{request.method} {request.path}" for request in hub.requests]
    commit = next(i for i, line in enumerate(order) if "/commit/" in line)
    tag = next(i for i, line in enumerate(order) if "/tag/" in line)
    pushed = hub.store.repositories[REPO].tags["v1"]
    between = order[commit + 1 : tag]
    assert f"GET /{REPO}/resolve/{pushed}/model.safetensors" in between
    assert f"GET /{REPO}/resolve/{pushed}/golden.safetensors" in between
    assert order[tag + 1 :] == []


def test_hidden_files_stay_at_home(hub: Hub, small: Path) -> None:
    (small / ".secret").write_text("hf_write")
    (small / ".git").mkdir()
    (small / ".git" / "config").write_text("url")
    assert not {".secret", ".git/config"} & set(push(small, REPO).uploaded)
    assert not {".secret", ".git/config"} & held(hub).keys()


def test_the_same_folder_again_changes_nothing(hub: Hub, small: Path) -> None:
    first = push(small, REPO)
    hub.requests.clear()
    again = push(small, REPO)
    assert (again.commit, again.tag, again.uploaded) == (first.commit, first.tag, ())
    assert len(commits(hub)) == 2
    assert {request.method for request in hub.requests} == {"GET", "HEAD"}


def test_a_changed_folder_is_a_second_commit_with_the_next_tag(hub: Hub, small: Path) -> None:
    first = push(small, REPO)
    (small / "README.md").write_text(card(license="mit"))
    second = push(small, REPO)
    assert (first.tag, second.tag) == ("v1", "v2")
    assert hub.store.repositories[REPO].tags == {"v1": first.commit, "v2": second.commit}
    assert b"license: cc-by-4.0" in held(hub, "v1")["README.md"]
    assert b"license: mit" in held(hub, "v2")["README.md"]


def test_files_of_others_are_left_alone(hub: Hub, small: Path) -> None:
    hub.store.publish(REPO, {"notes.md": b"mine", "README.md": b"old"})
    pushed = push(small, REPO)
    assert pushed.created is False
    assert pushed.kept == (".gitattributes", "notes.md")
    assert held(hub)["notes.md"] == b"mine"
    assert held(hub)["README.md"] == (small / "README.md").read_bytes()


def test_a_tag_of_ones_own(hub: Hub, small: Path) -> None:
    assert push(small, REPO, tag="paper-1.0").tag == "paper-1.0"
    (small / "README.md").write_text(card(license="mit"))
    with pytest.raises(UserError, match=r"already has a tag paper-1\.0 for other files .*; pass another --tag"):
        push(small, REPO, tag="paper-1.0")
    assert len(commits(hub)) == 2, "found out before uploading"


def test_private_means_private(hub: Hub, small: Path) -> None:
    pushed = push(small, REPO, private=True)
    assert (pushed.private, hub.store.repositories[REPO].private) == (True, True)
    hub.store.create("acme/open")
    with pytest.raises(UserError, match="acme/open exists and is public; make it private in its settings first"):
        push(small, "acme/open", private=True)
    assert len(commits(hub, "acme/open")) == 1


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answer-lost"])
def test_a_push_that_failed_anywhere_is_finished_by_the_next(hub: Hub, small: Path, lost: bool) -> None:
    """The Hub goes away at every request in turn; at that moment nothing is half-published.

    ``answer-lost``: a request that changes something is carried out, but nobody hears of it.
    """
    push(small, REPO)
    methods = [request.method for request in hub.requests]
    survived = 0
    turns = [i for i, method in enumerate(methods) if not lost or method in ("POST", "PUT")]
    assert len(turns) >= 6
    for served in turns:
        hub.reset()
        hub.outage = Outage(served, lost=lost)
        try:
            push(small, REPO)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            survived += 1  # the very last answer, or a request that the client can do without
        repository = hub.store.repositories.get(REPO)
        if repository is not None:
            assert len(commits(hub)) in (1, 2), served
            assert held(hub) in ({}, contents(small)), f"half-published at request {served}"
            for commit in repository.tags.values():
                assert held(hub, commit) == contents(small)
        hub.outage = None
        done = push(small, REPO)
        assert hub.store.repositories[REPO].tags == {"v1": done.commit}, served
        assert len(commits(hub)) == 2, f"one commit however often it was tried, request {served}"
        assert held(hub) == contents(small)
    assert survived < len(turns) // 2


def test_a_rejected_upload_leaves_nothing(hub: Hub, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token may read only."""
    hub.store.create(REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    with pytest.raises(UserError, match=r"uploading failed with 403 .*; the token may not write to acme/eo_resnet50"):
        push(small, REPO)
    assert len(commits(hub)) == 1
    assert hub.store.repositories[REPO].tags == {}


def test_somebody_elses_commit_in_between_is_not_overwritten(hub: Hub, small: Path) -> None:
    hub.before_commit = lambda: hub.store.publish(REPO, {"README.md": b"theirs"})
    with pytest.raises(UserError, match=r"412.*another client committed to it meanwhile"):
        push(small, REPO)
    assert held(hub) == {"README.md": b"theirs"}


def test_weights_that_come_back_changed_get_no_tag(hub: Hub, small: Path) -> None:
    hub.faults["model.safetensors"] = Fault("flip", at_byte=5000)
    with pytest.raises(UserError, match=r"was not tagged, because loading it back failed: .* is corrupted"):
        push(small, REPO)
    assert hub.store.repositories[REPO].tags == {}
    hub.faults.clear()
    assert push(small, REPO).uploaded == ()
    assert hub.store.repositories[REPO].tags == {"v1": commits(hub)[0]}


def test_a_hub_that_keeps_other_content_gets_no_tag(hub: Hub, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = hub.store.commit

    def spoil(repo_id: str, added: dict[str, object], *rest: object, **named: object) -> str:
        return original(repo_id, added | {"README.md": b"other"} if "README.md" in added else added, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(hub.store, "commit", spoil)
    with pytest.raises(
        UserError, match=r"returned different content than was sent for README\.md .*; it was not tagged"
    ):
        push(small, REPO)
    assert hub.store.repositories[REPO].tags == {}


def without(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def new_card(text: str) -> Callable[[Path], None]:
    return lambda path: (path / "README.md").write_text(text) and None


def other_golden(path: Path) -> None:
    golden = load_file(path / "golden.safetensors")
    save_file({**golden, "output": golden["output"] + 0.01}, path / "golden.safetensors")


def other_weights(path: Path) -> None:
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "model.safetensors").write_bytes(content)


def no_digest(path: Path) -> None:
    (path / "recipe.json").write_text("{}")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (without("README.md"), r"lacks README\.md; push a folder that 'eo-train export"),
        (without("golden.safetensors"), r"lacks golden\.safetensors"),
        (without("recipe.json"), r"lacks recipe\.json"),
        (no_digest, r"recipe\.json records no sha256"),
        (new_card("# no front matter\n"), "does not name a licence"),
        (new_card("---\nlicense: [\n---\n"), "front matter of .* cannot be read"),
        (new_card(card(license=None)), "does not name a licence; export with --license"),
        (new_card(card(license="other")), "'license: other' without license_name and license_link"),
        (
            new_card(card(license="other", license_name="mine", license_link="LICENSE")),
            "names the licence file LICENSE, which is not in",
        ),
        (new_card("---\nlicense: mit\n---\n"), "holds no results; measure them with 'eo-backbones evaluate"),
        (other_golden, r"does not reproduce .*golden\.safetensors: outputs differ by 0\.01"),
        (other_weights, "is corrupted: its sha256 is"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True], ids=["push", "dry-run"])
def test_a_folder_that_must_not_be_published_is_refused(
    hub: Hub, small: Path, break_it: Callable[[Path], None], message: str, dry_run: bool
) -> None:
    break_it(small)
    with pytest.raises(UserError, match=message) as caught:
        push(small, REPO, dry_run=dry_run)
    assert "\n" not in str(caught.value)
    assert hub.requests == [], "refused before the Hub was asked for anything"


def test_a_licence_of_ones_own_is_accepted_with_its_text(hub: Hub, small: Path) -> None:
    (small / "README.md").write_text(card(license="other", license_name="mine", license_link="LICENSE"))
    (small / "LICENSE").write_text("Ask me.")
    assert check_folder(small).license == "other"


@pytest.mark.parametrize("repo_id", ["toy", "a/b/c", "a b/c", ""])
def test_a_wrong_repository_name(small: Path, repo_id: str) -> None:
    with pytest.raises(UserError, match="does not name a Hub repository; write ORG/NAME"):
        push(small, repo_id)


def test_without_a_token_it_says_how_to_get_one_in(hub: Hub, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=rf"{hub.url}/settings/tokens, then set HF_TOKEN to it or run 'hf auth login'"):
        push(small, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    with pytest.raises(UserError, match=r"401 .*the token is not valid"):
        push(small, REPO)
    assert REPO not in hub.store.repositories


def test_a_dry_run_changes_nothing_and_needs_no_token(hub: Hub, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    would = push(small, REPO, dry_run=True)
    assert (would.created, would.tag, would.commit) == (True, "v1", None)
    assert set(would.uploaded) == set(contents(small))
    assert {request.method for request in hub.requests} == {"GET"}
    assert hub.store.repositories == {}


def test_a_dry_run_knows_what_is_there(hub: Hub, small: Path) -> None:
    pushed = push(small, REPO)
    again = push(small, REPO, dry_run=True)
    assert (again.created, again.tag, again.commit, again.uploaded) == (False, "v1", pushed.commit, ())
    (small / "README.md").write_text(card(license="mit"))
    other = push(small, REPO, dry_run=True)
    assert (other.tag, other.commit, len(other.uploaded)) == ("v2", None, len(contents(small)))
    assert len(commits(hub)) == 2


def test_a_dry_run_without_a_hub_checks_the_folder_all_the_same(hub: Hub, small: Path) -> None:
    hub.outage = Outage(0)
    would = push(small, REPO, dry_run=True)
    assert would.note is not None and "failed with 400" in would.note
    assert set(would.uploaded) == set(contents(small))


def test_the_command_says_what_it_would_do_and_what_it_did(
    hub: Hub, small: Path, command: Callable[..., Ended]
) -> None:
    status, out, _ = command("push", small, "--repo-id", REPO, "--dry-run", "--private")
    assert status == 0
    assert out.startswith(f"nothing was changed; this is what a push to {hub.url}/{REPO} would do:")
    for text in ("make the repository (private)", "upload", "model.safetensors", "tag the commit v1"):
        assert text in out
    assert hub.store.repositories == {}
    status, out, _ = command("push", small, "--repo-id", REPO, "--private")
    assert status == 0
    assert f"pushed: {hub.url}/{REPO} (private), 6 files" in out
    assert f'eo_backbones.create_model("hf-hub:{REPO}@v1")' in out
    status, out, _ = command("push", small, "--repo-id", REPO, "--json")
    assert json.loads(out)["commit"] == hub.store.repositories[REPO].tags["v1"]
    assert "it held these files already" in command("push", small, "--repo-id", REPO)[1]


def test_a_mistake_is_one_line_and_status_2(
    hub: Hub, small: Path, command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    status, out, err = command("push", small, "--repo-id", REPO)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"error: pushing needs a token: .*\n", err)
    assert command("push", small / "nothing", "--repo-id", REPO, "--dry-run")[0] == 2


@pytest.fixture
def whole(weights_folder: Path, tmp_path: Path) -> Iterator[Path]:
    """The stock architecture at its real size, ready to be pushed."""
    path = shutil.copytree(weights_folder, tmp_path / "whole")
    yield complete(path, eo_backbones.create_model(f"local-dir:{weights_folder}"))
    shutil.rmtree(path)


@pytest.mark.slow
def test_every_loader_gives_what_was_pushed(hub: Hub, whole: Path, repository: Path, run_python: RunPython) -> None:
    """Ours, plain timm in a process without this package, and torch.hub through a row that pins the commit."""
    row = eo_backbones.get_weights("eo_resnet50.byol_dfc2020")
    pushed = push(whole, f"acme/{row.name}")
    name = f"hf-hub:acme/{row.name}@{pushed.tag}"
    golden = load_file(whole / "golden.safetensors")
    ours = eo_backbones.create_model(name)
    assert ours.eo_input is not None
    for model in (ours, timm.create_model(name, pretrained=True)):
        with torch.inference_mode():
            torch.testing.assert_close(model.eval()(golden["input"]), golden["output"])
    elsewhere = f"""
import sys, timm, torch
from dataclasses import replace
from safetensors.torch import load_file

golden = load_file({str(whole / "golden.safetensors")!r})

def check(model):
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(golden["input"]), golden["output"])

check(timm.create_model({name!r}, pretrained=True))
assert not any(name.startswith("eo_backbones") for name in sys.modules)

from eo_backbones import weights
row = replace(weights.get_weights({row.name!r}), revision={pushed.commit!r}, sha256={pushed.sha256!r})
weights.WEIGHTS = {{**weights.WEIGHTS, row.name: row}}
check(torch.hub.load({str(repository)!r}, "byol_resnet50", weights="dfc2020", source="local"))
"""
    done = run_python(elsewhere, EO_BACKBONES_NAMESPACE="acme")
    assert done.returncode == 0, done.stderr


def test_the_git_id_of_a_small_file_is_the_one_git_gives(small: Path) -> None:
    content = (small / "README.md").read_bytes()
    assert check_folder(small).contents["README.md"].git == git_blob_id(content)

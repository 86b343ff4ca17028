"""From a name to verified files, over real HTTP against the loopback Hub."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from eo_backbones import weights
from eo_backbones.errors import UserError
from eo_backbones.hub import download as eo_hub
from eo_backbones.weights import Weights
from support.hub_fixtures import RunPython
from support.hub_http import Fault, Hub

CONTENT = bytes(range(256)) * 200
DIGEST = sha256(CONTENT).hexdigest()
CONFIG = json.dumps(
    {"architecture": "resnet50", "num_classes": 0, "pretrained_cfg": {"input_size": [1, 64, 64]}}
).encode()
FILES = {"model.safetensors": CONTENT, "config.json": CONFIG}
SPARE = "hf-hub:acme/spare"


def blob(cache: Path, digest: str = DIGEST) -> Path:
    """The one cached copy of a content."""
    (path,) = cache.glob(f"*/blobs/{digest}")
    return path


@pytest.fixture
def row(hub: Hub, declare: Callable[..., None]) -> Weights:
    """A row that is published on the loopback Hub, at a commit that is no longer the newest."""
    plain = weights.get_weights("eo_resnet50.byol_dfc2020")
    revision = hub.store.publish(plain.repo_id, FILES)
    hub.store.publish(plain.repo_id, {"model.safetensors": b"newer" * 1000})
    published = replace(plain, sha256=DIGEST, size_bytes=len(CONTENT), revision=revision)
    declare(published)
    return published


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eo_resnet50.byol_dfc202", "unknown model .* did you mean eo_resnet50.byol_dfc2020"),
        ("acme/model", r"write hf-hub:ORG/NAME\[@REVISION\] .* or local-dir:PATH"),
        ("./folder", "local-dir:PATH"),
        ("hub:acme/model", "hf-hub:ORG/NAME"),
        ("hf-hub:model", "'hf-hub:model' does not name a Hub repository; write hf-hub:ORG/NAME"),
        ("hf-hub:a/b/c", "does not name a Hub repository"),
        ("hf-hub:", "does not name a Hub repository"),
        ("hf-hub:acme/two--dashes", "is not the name of a Hub repository"),
    ],
)
def test_a_name_that_is_none_says_what_to_write(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        eo_hub.resolve(name, cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_the_name_without_a_tag_is_the_default_row() -> None:
    assert eo_hub.parse_source("eo_resnet50").row is weights.default_of_family("eo_resnet50")


class TestRow:
    """Published and unpublished rows."""

    def test_content_of_the_pinned_revision_is_compared_with_the_row(
        self, row: Weights, hub: Hub, tmp_path: Path
    ) -> None:
        found = eo_hub.resolve(row.name, cache_dir=tmp_path)
        assert found.weights_path is not None
        assert found.weights_path.read_bytes() == CONTENT
        assert (found.sha256, found.expected, found.pinned, found.route) == (DIGEST, DIGEST, True, "hub")
        assert found.config.input == row.input
        assert {request.path for request in hub.requests if "resolve" in request.path} == {
            f"/{row.repo_id}/resolve/{row.revision}/model.safetensors"
        }

    def test_a_second_load_asks_nothing(self, row: Weights, hub: Hub, tmp_path: Path) -> None:
        eo_hub.resolve(row.name, cache_dir=tmp_path)
        hub.requests.clear()
        eo_hub.resolve(row.name, cache_dir=tmp_path)
        assert hub.requests == []

    def test_a_corrupted_transfer_of_the_same_length_is_refused(self, row: Weights, hub: Hub, tmp_path: Path) -> None:
        """Neither huggingface_hub nor timm notices it; deleting the named file is enough to recover."""
        hub.faults["model.safetensors"] = Fault("flip", at_byte=1000, times=1)
        with pytest.raises(UserError) as caught:
            eo_hub.resolve(row.name, cache_dir=tmp_path)
        assert f"{blob(tmp_path)} is corrupted" in str(caught.value)
        assert "delete the file" in str(caught.value)
        blob(tmp_path).unlink()
        assert eo_hub.resolve(row.name, cache_dir=tmp_path).sha256 == DIGEST

    def test_a_file_that_changed_in_the_cache_is_refused(self, row: Weights, tmp_path: Path) -> None:
        eo_hub.resolve(row.name, cache_dir=tmp_path)
        blob(tmp_path).write_bytes(CONTENT[::-1])
        with pytest.raises(UserError, match=f"{blob(tmp_path)} is corrupted"):
            eo_hub.resolve(row.name, cache_dir=tmp_path)

    def test_a_hub_that_serves_another_file_under_the_pinned_revision_is_refused(
        self, row: Weights, declare: Callable[..., None], tmp_path: Path
    ) -> None:
        declare(replace(row, sha256="0" * 64))
        with pytest.raises(UserError, match=f"the row {row.name} says 000000000000"):
            eo_hub.resolve(row.name, cache_dir=tmp_path)

    def test_the_namespace_can_be_set(
        self, row: Weights, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("EO_BACKBONES_NAMESPACE", "mirror")
        revision = hub.store.publish(f"mirror/{row.name}", FILES)
        hub.store.repositories[f"mirror/{row.name}"].commits[str(row.revision)] = hub.store.repositories[
            f"mirror/{row.name}"
        ].commits[revision]
        hub.store.repositories.pop(f"{weights.NAMESPACE}/{row.name}")
        assert eo_hub.resolve(row.name, cache_dir=tmp_path).pinned

    def test_an_unpublished_row_is_an_error_and_its_declaration_is_not(self) -> None:
        name = "eo_resnet50.simsiam_sen12ms_90k"
        with pytest.raises(UserError, match=r"no weights are published .*eo-train pretrain simsiam-sen12ms-90k"):
            eo_hub.resolve(name)
        declared = eo_hub.resolve(name, with_weights=False)
        assert (declared.weights_path, declared.config.in_chans, declared.config.num_classes) == (None, 1, 0)

    def test_a_repository_at_a_rows_commit_is_pinned(self, row: Weights, tmp_path: Path) -> None:
        found = eo_hub.resolve(f"hf-hub:{row.repo_id}@{row.revision}", cache_dir=tmp_path)
        assert (found.pinned, found.row) == (True, row)
        assert not eo_hub.resolve(f"hf-hub:{row.repo_id}", cache_dir=tmp_path).pinned


class TestEmbedded:
    """Weights that ship inside the package."""

    @pytest.fixture
    def embedded(self, tmp_path: Path, declare: Callable[..., None]) -> Path:
        (tmp_path / "mini.safetensors").write_bytes(CONTENT)
        declare(
            replace(
                weights.get_weights("eo_resnet50.byol_s1s2_mini"),
                sha256=DIGEST,
                size_bytes=len(CONTENT),
                embedded=str(tmp_path / "mini.safetensors"),
            )
        )
        return tmp_path / "mini.safetensors"

    def test_is_verified_without_the_hub(self, embedded: Path, hub: Hub) -> None:
        found = eo_hub.resolve("eo_resnet50")
        assert (found.weights_path, found.sha256, found.pinned, found.route) == (embedded, DIGEST, True, "embedded")
        assert hub.requests == []

    def test_a_damaged_file_is_refused(self, embedded: Path) -> None:
        embedded.write_bytes(CONTENT[:-1] + b"x")
        with pytest.raises(UserError, match=f"{embedded} is corrupted.* install eo-backbones again"):
            eo_hub.resolve("eo_resnet50")

    def test_a_missing_file_is_named(self, embedded: Path) -> None:
        embedded.unlink()
        with pytest.raises(UserError, match=f"{embedded} is missing"):
            eo_hub.resolve("eo_resnet50")


class TestRepository:
    """``hf-hub:`` repositories that no row pins."""

    def test_content_is_what_the_hub_reports_and_the_log_says_not_pinned(
        self, hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        hub.store.publish("acme/spare", FILES)
        with caplog.at_level(logging.WARNING, "eo_backbones.hub.download"):
            found = eo_hub.resolve(SPARE, cache_dir=tmp_path)
        assert (found.sha256, found.expected, found.pinned) == (DIGEST, DIGEST, False)
        assert f"{SPARE} is not pinned" in caplog.text

    def test_a_corrupted_transfer_is_refused(self, hub: Hub, tmp_path: Path) -> None:
        hub.store.publish("acme/spare", FILES)
        hub.faults["model.safetensors"] = Fault("flip", at_byte=1000)
        with pytest.raises(UserError, match=r"blobs/.* is corrupted.* the Hub says"):
            eo_hub.resolve(SPARE, cache_dir=tmp_path)

    def test_a_corrupted_description_is_refused(self, hub: Hub, tmp_path: Path) -> None:
        hub.store.publish("acme/spare", FILES)
        hub.faults["config.json"] = Fault("flip", at_byte=20)
        with pytest.raises(UserError, match=r"blobs/.* is corrupted.* delete the file"):
            eo_hub.resolve(SPARE, cache_dir=tmp_path)

    def test_a_cache_without_links_is_said_to_be_unverified(
        self, hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        hub.store.publish("acme/spare", FILES)
        path = eo_hub.resolve(SPARE, cache_dir=tmp_path).weights_path
        assert path is not None
        path.unlink()
        path.write_bytes(CONTENT)  # what huggingface_hub does on a file system without links
        found = eo_hub.resolve(SPARE, cache_dir=tmp_path)
        assert (found.sha256, found.expected) == (DIGEST, None)
        assert "is not verified" in caplog.text

    def test_branch_tag_and_commit_are_revisions(self, hub: Hub, tmp_path: Path) -> None:
        first = hub.store.publish("acme/spare", FILES)
        hub.store.repositories["acme/spare"].tags["v1"] = first
        hub.store.publish("acme/spare", {"model.safetensors": b"newer" * 1000})
        digests = {
            revision: eo_hub.resolve(f"{SPARE}@{revision}", cache_dir=tmp_path).sha256
            for revision in ("v1", first, "main")
        }
        assert digests == {"v1": DIGEST, first: DIGEST, "main": sha256(b"newer" * 1000).hexdigest()}

    def test_only_the_description_is_fetched_when_only_it_is_wanted(self, hub: Hub, tmp_path: Path) -> None:
        hub.store.publish("acme/spare", FILES)
        found = eo_hub.resolve(SPARE, cache_dir=tmp_path, with_weights=False)
        assert (found.weights_path, found.config.architecture) == (None, "resnet50")
        assert hub.requested("GET", "model.safetensors") == []

    def test_cached_files_load_without_asking(self, hub: Hub, tmp_path: Path) -> None:
        hub.store.publish("acme/spare", FILES)
        eo_hub.resolve(SPARE, cache_dir=tmp_path)
        hub.requests.clear()
        assert eo_hub.resolve(SPARE, cache_dir=tmp_path, local_files_only=True).sha256 == DIGEST
        assert hub.requests == []

    def test_cached_files_load_while_the_hub_answers_500(self, hub: Hub, tmp_path: Path) -> None:
        hub.store.publish("acme/spare", FILES)
        eo_hub.resolve(SPARE, cache_dir=tmp_path)
        hub.faults |= {name: Fault("status", status=500) for name in FILES}
        assert eo_hub.resolve(SPARE, cache_dir=tmp_path).sha256 == DIGEST

    def test_private_repositories_open_with_a_token(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.store.publish("acme/spare", FILES, private=True)
        monkeypatch.setenv("HF_TOKEN", "hf_write")
        assert eo_hub.resolve(SPARE, cache_dir=tmp_path).sha256 == DIGEST

    def test_gated_repositories_open_with_a_token(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.store.publish("acme/spare", FILES, gated=True)
        monkeypatch.setenv("HF_TOKEN", "hf_write")
        assert eo_hub.resolve(SPARE, cache_dir=tmp_path).sha256 == DIGEST

    def test_a_connection_that_breaks_once_is_no_error(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("time.sleep", lambda _: None)
        hub.store.publish("acme/spare", FILES)
        hub.faults["model.safetensors"] = Fault("cut", at_byte=3000, times=1)
        assert eo_hub.resolve(SPARE, cache_dir=tmp_path).sha256 == DIGEST
        assert len(hub.requested("GET", "model.safetensors")) == 2


class TestFailures:
    """Each failure is one line that says what would help, and leaves no file that a later load would take."""

    @pytest.fixture(autouse=True)
    def no_waiting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The client waits before it tries again; that is all it uses time.sleep for."""
        monkeypatch.setattr("time.sleep", lambda _: None)

    def failure(self, cache: Path, name: str = SPARE, **options: bool) -> str:
        with pytest.raises(UserError) as caught:
            eo_hub.resolve(name, cache_dir=cache, **options)
        message = str(caught.value)
        assert "\n" not in message
        assert not list(cache.glob(f"*/blobs/{DIGEST}*"))
        return message

    def test_missing_repository(self, hub: Hub, tmp_path: Path) -> None:
        message = self.failure(tmp_path)
        assert f"{hub.url} has no repository acme/spare" in message
        assert "HF_TOKEN" in message

    def test_missing_revision(self, hub: Hub, tmp_path: Path) -> None:
        hub.store.publish("acme/spare", FILES)
        assert "has no revision 'v9'" in self.failure(tmp_path, f"{SPARE}@v9")

    @pytest.mark.parametrize("name", FILES)
    def test_missing_file(self, hub: Hub, tmp_path: Path, name: str) -> None:
        hub.store.publish("acme/spare", {key: value for key, value in FILES.items() if key != name})
        assert f"acme/spare has no file {name} at revision main" in self.failure(tmp_path, f"{SPARE}@main")

    @pytest.mark.parametrize("token", [None, "hf_read"])
    def test_private_repository(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
    ) -> None:
        hub.store.publish("acme/spare", FILES, private=True)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        assert "if it is private, set HF_TOKEN" in self.failure(tmp_path)

    def test_refused_token(self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hub.store.publish("acme/spare", FILES)
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
        message = self.failure(tmp_path)
        assert "401" in message or "HF_TOKEN" in message

    @pytest.mark.parametrize("token", [None, "hf_read"])
    def test_gated_repository(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
    ) -> None:
        hub.store.publish("acme/spare", FILES, gated=True)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        assert f"ask for access on {hub.url}/acme/spare, then set HF_TOKEN" in self.failure(tmp_path)

    @pytest.mark.parametrize("kind", ["cut", "short"])
    def test_truncated_transfer(self, hub: Hub, tmp_path: Path, kind: str) -> None:
        hub.store.publish("acme/spare", FILES)
        hub.faults["model.safetensors"] = Fault(kind, at_byte=3000)  # type: ignore[arg-type]
        assert "the transfer of model.safetensors from acme/spare" in self.failure(tmp_path)

    def test_a_hub_that_fails(self, hub: Hub, tmp_path: Path) -> None:
        hub.store.publish("acme/spare", FILES)
        hub.faults["config.json"] = Fault("status", status=500)
        assert "answered 500; check the connection, set HF_ENDPOINT" in self.failure(tmp_path)

    def test_nothing_cached_and_asking_not_allowed(self, hub: Hub, tmp_path: Path) -> None:
        hub.store.publish("acme/spare", FILES)
        message = self.failure(tmp_path, local_files_only=True)
        assert "config.json of acme/spare is not in the cache" in message
        assert "local-dir:PATH" in message
        assert hub.requests == []

    def test_a_cache_that_cannot_be_written(self, hub: Hub, tmp_path: Path) -> None:
        hub.store.publish("acme/spare", FILES)
        (tmp_path / "file").write_text("in the way")
        assert "could not be stored in the cache" in self.failure(tmp_path / "file")


class TestFolder:
    """``local-dir:`` folders."""

    @pytest.fixture
    def local(self, tmp_path: Path) -> Path:
        for name, content in FILES.items():
            (tmp_path / name).write_bytes(content)
        return tmp_path

    def test_content_is_compared_with_the_recipe(self, local: Path, hub: Hub) -> None:
        (local / "recipe.json").write_text(json.dumps({"weights_sha256": DIGEST}))
        found = eo_hub.resolve(f"local-dir:{local}")
        assert (found.sha256, found.expected, found.pinned, found.route) == (DIGEST, DIGEST, False, "local")
        assert hub.requests == []

    def test_other_content_than_the_recipes_is_refused(self, local: Path) -> None:
        (local / "recipe.json").write_text(json.dumps({"weights_sha256": "0" * 64}))
        with pytest.raises(UserError, match=r"model.safetensors is corrupted.* its recipe.json says 0000.* export"):
            eo_hub.resolve(f"local-dir:{local}")

    def test_without_a_recorded_digest_the_log_says_not_verified(
        self, local: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        found = eo_hub.resolve(f"local-dir:{local}")
        assert (found.sha256, found.expected) == (DIGEST, None)
        assert "is not verified" in caplog.text

    @pytest.mark.parametrize("name", FILES)
    def test_a_missing_file_is_named(self, local: Path, name: str) -> None:
        (local / name).unlink()
        with pytest.raises(UserError, match=f"there is no {name} in {local}"):
            eo_hub.resolve(f"local-dir:{local}")

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"there is no folder .*/nothing"):
            eo_hub.resolve(f"local-dir:{tmp_path / 'nothing'}")

    def test_home_is_expanded(self, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(local.parent))
        assert eo_hub.resolve(f"local-dir:~/{local.name}").sha256 == DIGEST


_TRY = """
import json, sys
from eo_backbones.hub.download import resolve
from eo_backbones.errors import UserError

def attempt(name):
    try:
        return resolve(name).sha256
    except UserError as error:
        return f"error: {error}"
"""


def test_offline_after_caching(hub: Hub, tmp_path: Path, run_python: RunPython) -> None:
    """With HF_HUB_OFFLINE=1 the cache below HF_HOME is enough, content is still compared, nothing is asked."""
    for name in ("spare", "spoilt"):
        hub.store.publish(f"acme/{name}", FILES)
        eo_hub.resolve(f"hf-hub:acme/{name}", cache_dir=tmp_path / "hub")
    spoilt = tmp_path / "hub" / "models--acme--spoilt" / "blobs" / DIGEST
    spoilt.write_bytes(CONTENT[::-1])
    hub.requests.clear()
    names = [SPARE, "hf-hub:acme/spoilt", "hf-hub:acme/never"]
    done = run_python(
        f"{_TRY}\nprint(json.dumps([attempt(name) for name in {names}]))", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    cached, corrupted, uncached = json.loads(done.stdout)
    assert cached == DIGEST
    assert f"{spoilt} is corrupted" in corrupted
    assert "load it once without HF_HUB_OFFLINE=1" in uncached
    assert hub.requests == []


def test_server_gone_after_caching(tmp_path: Path, repository: Path, run_python: RunPython) -> None:
    """What is cached loads; what is not says that the Hub cannot be reached, and what would help."""
    code = f"""
import os, sys, time
sys.path.insert(0, {str(repository / "tests")!r})
from support.hub_server import running_hub
with running_hub() as served:
    served.store.publish("acme/spare", {{"model.safetensors": bytes(range(256)) * 200, "config.json": {CONFIG!r}}})
    os.environ["HF_ENDPOINT"] = served.url
{"".join(f"    {line}" + chr(10) for line in _TRY.splitlines())}
    first = attempt("{SPARE}")
time.sleep = lambda _: None  # the client waits between its attempts, 23 s in all
print(json.dumps([served.url, first, attempt("{SPARE}"), attempt("hf-hub:acme/other")]))
"""
    done = run_python(code, HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    url, first, again, other = json.loads(done.stdout)
    assert first == again == DIGEST
    assert f"the Hub at {url} cannot be reached" in other
    for remedy in ("HF_ENDPOINT", "HF_HUB_OFFLINE=1", "local-dir:PATH"):
        assert remedy in other

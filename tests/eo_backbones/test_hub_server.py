"""The loopback Hub itself, asked by the unmodified client: other tests rest on its answers, push among them."""

from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from support.hub_http import Hub
from support.hub_store import git_blob_id

LARGE = bytes(range(256)) * 1000


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.url, token="hf_write")


@pytest.fixture
def pushed(api: HfApi, tmp_path: Path) -> str:
    """A folder pushed as one commit; its id."""
    (tmp_path / "model.safetensors").write_bytes(LARGE)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# card\n")
    api.create_repo("acme/pushed", exist_ok=True)
    return str(api.upload_folder(repo_id="acme/pushed", folder_path=tmp_path, commit_message="first").oid)


def test_a_pushed_folder_downloads_again(api: HfApi, pushed: str, hub: Hub, tmp_path: Path) -> None:
    back = Path(api.snapshot_download("acme/pushed", cache_dir=tmp_path / "cache"))
    assert back.name == pushed
    assert (back / "model.safetensors").read_bytes() == LARGE
    assert api.list_repo_files("acme/pushed") == [".gitattributes", "README.md", "model.safetensors"]
    (weights,) = api.get_paths_info("acme/pushed", ["model.safetensors"])
    assert (weights.size, weights.lfs.size) == (len(LARGE), len(LARGE))
    assert hub.store.blobs[weights.lfs.sha256] == LARGE


def test_a_second_push_of_the_same_files_uploads_nothing(api: HfApi, pushed: str, hub: Hub, tmp_path: Path) -> None:
    hub.requests.clear()
    again = api.upload_file(repo_id="acme/pushed", path_in_repo="copy.safetensors", path_or_fileobj=LARGE)
    assert str(again.oid) != pushed
    assert [request for request in hub.requests if request.method == "PUT"] == []


def test_a_commit_on_a_stale_parent_is_refused(api: HfApi, pushed: str) -> None:
    add = CommitOperationAdd("note.txt", b"one")
    api.create_commit("acme/pushed", [add], commit_message="second", parent_commit=pushed)
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_commit(
            "acme/pushed", [CommitOperationAdd("note.txt", b"two")], commit_message="late", parent_commit=pushed
        )
    assert caught.value.response.status_code == 412


def test_files_can_be_deleted(api: HfApi, pushed: str) -> None:
    api.create_commit("acme/pushed", [CommitOperationDelete("README.md")], commit_message="without card")
    assert api.list_repo_files("acme/pushed") == [".gitattributes", "model.safetensors"]
    assert "README.md" in api.list_repo_files("acme/pushed", revision=pushed)


def test_a_tag_names_a_commit_once(api: HfApi, pushed: str) -> None:
    api.create_tag("acme/pushed", tag="v1", revision=pushed)
    assert api.model_info("acme/pushed", revision="v1").sha == pushed
    assert [(tag.name, tag.target_commit) for tag in api.list_repo_refs("acme/pushed").tags] == [("v1", pushed)]
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_tag("acme/pushed", tag="v1", revision=pushed)
    assert caught.value.response.status_code == 409
    with pytest.raises(RevisionNotFoundError):
        api.model_info("acme/pushed", revision="v2")


def test_a_repository_is_created_once(api: HfApi, pushed: str) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_repo("acme/pushed")
    assert caught.value.response.status_code == 409


@pytest.mark.parametrize(("token", "status"), [("hf_read", 403), ("hf_unknown", 401), (False, 401)])
def test_only_the_owners_token_may_write(hub: Hub, pushed: str, token: str | bool, status: int) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi(endpoint=hub.url, token=token).create_tag("acme/pushed", tag="v1")
    assert caught.value.response.status_code == status


def test_a_private_repository_is_created_private(api: HfApi, hub: Hub) -> None:
    api.create_repo("acme/secret", private=True)
    assert api.model_info("acme/secret").private
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=hub.url, token=False).model_info("acme/secret")


def test_whoami(api: HfApi, hub: Hub) -> None:
    assert api.whoami()["name"] == "acme"
    with pytest.raises(HfHubHTTPError):
        HfApi(endpoint=hub.url, token="hf_unknown").whoami()


def test_a_range_is_answered_with_that_part(pushed: str, hub: Hub) -> None:
    request = Request(f"{hub.url}/acme/pushed/resolve/{pushed}/model.safetensors", headers={"Range": "bytes=1000-1999"})
    with urlopen(request, timeout=10) as answer:
        assert (answer.status, answer.read()) == (206, LARGE[1000:2000])
        assert answer.headers["Content-Range"] == f"bytes 1000-1999/{len(LARGE)}"


def test_small_files_are_known_by_their_git_id(hub: Hub) -> None:
    """The id of a well-known blob: `printf 'hello\\n' | git hash-object --stdin`."""
    assert git_blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    hub.store.publish("acme/small", {"hello.txt": b"hello\n"})
    with urlopen(f"{hub.url}/acme/small/resolve/main/hello.txt", timeout=10) as answer:
        assert answer.headers["ETag"] == '"ce013625030ba8dba906f756967f9e9ca394464a"'

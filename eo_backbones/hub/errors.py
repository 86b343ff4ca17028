"""Every failure of the Hub as a one-line message that says what to do.

Only exception classes of huggingface_hub are named here: its HTTP library changed between 1.x and 2.x (httpx, httpx2),
so importing either one would break with the other.
"""

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # of httpx or httpx2

from eo_backbones.errors import UserError

FAILURES = (OSError, EntryNotFoundError, HFValidationError, TransportError)
"""What a call may raise: error responses of the Hub are OSErrors, a broken connection is a TransportError."""

UPLOAD_FAILURES = (RuntimeError, ValueError)
"""What an upload may raise as well: RuntimeError around any failed transfer of a large file, ValueError for a card that
the Hub refuses."""

TOKEN_HELP = (
    "make one that may write at {endpoint}/settings/tokens, then set HF_TOKEN to it or run 'hf auth login' "
    "(--dry-run needs none)"
)
"""How to provide a token; ``endpoint`` is the Hub's address."""

_TOKEN_HELP = "set HF_TOKEN to a token that may read it (or run 'hf auth login')"
_UNREACHABLE_HELP = (
    "check the connection, set HF_ENDPOINT to a mirror that can be reached, set HF_HUB_OFFLINE=1 if the files are "
    "cached, or load a copy with local-dir:PATH"
)


class MissingFileError(UserError):
    """The repository exists, but the file does not."""


def explain(error: Exception, *, repo_id: str, revision: str | None, filename: str) -> UserError:  # noqa: PLR0911 one case a line
    """Return the user's view of a failed download.

    Args:
        error: one of :data:`FAILURES`.
        repo_id: repository that was asked for.
        revision: its revision; ``None`` for the default branch.
        filename: file in it.
    """
    endpoint = constants.ENDPOINT
    at_revision = f" at revision {revision}" if revision else ""
    if isinstance(error, GatedRepoError):
        return UserError(f"{repo_id} is gated: ask for access on {endpoint}/{repo_id}, then {_TOKEN_HELP}")
    if isinstance(error, RepositoryNotFoundError):
        return UserError(f"{endpoint} has no repository {repo_id}: check the name; if it is private, {_TOKEN_HELP}")
    if isinstance(error, RevisionNotFoundError):
        return UserError(
            f"{repo_id} has no revision {revision!r}; name a branch, tag or commit, or leave out @REVISION"
        )
    if isinstance(error, LocalEntryNotFoundError):
        return _not_cached(error, repo_id, at_revision, filename)
    if isinstance(error, EntryNotFoundError):
        return MissingFileError(
            f"{repo_id} has no file {filename}{at_revision}; is it a repository of weights for timm?"
        )
    if isinstance(error, HFValidationError):
        return UserError(f"{repo_id!r} is not the name of a Hub repository; write hf-hub:ORG/NAME[@REVISION]")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        help_ = _TOKEN_HELP if status in (401, 403) else _UNREACHABLE_HELP
        return UserError(f"{endpoint} answered {status} for {filename} of {repo_id}; {help_}")
    if isinstance(error, OSError) and error.errno is not None:
        return UserError(
            f"{filename} of {repo_id} could not be stored in the cache ({error.strerror}: {error.filename or ''}); "
            f"make room or pass another cache_dir (or set HF_HOME)"
        )
    return UserError(
        f"the transfer of {filename} from {repo_id} at {endpoint} broke off ({type(error).__name__}); load again, or "
        f"{_UNREACHABLE_HELP}"
    )


def _not_cached(error: LocalEntryNotFoundError, repo_id: str, at_revision: str, filename: str) -> UserError:
    cause = error.__cause__
    if cause is None or isinstance(cause, OfflineModeIsEnabled):
        return UserError(
            f"{filename} of {repo_id}{at_revision} is not in the cache ({constants.HF_HUB_CACHE}, unless you pass "
            f"cache_dir) and access to the Hub is switched off; load it once without HF_HUB_OFFLINE=1 and "
            f"local_files_only, or load a copy with local-dir:PATH"
        )
    if isinstance(cause, HfHubHTTPError):
        reason = f"answered {cause.response.status_code}"
    else:
        reason = f"cannot be reached ({type(cause).__name__})"
    return UserError(f"the Hub at {constants.ENDPOINT} {reason}; {_UNREACHABLE_HELP}")


def explain_push(error: Exception, *, repo_id: str, doing: str) -> UserError:
    """Return the user's view of a failed request of a push; a second run continues where this one stopped.

    Args:
        error: one of :data:`FAILURES` or :data:`UPLOAD_FAILURES`.
        repo_id: repository that is pushed to.
        doing: what was tried, for the message: ``"creating it"``.
    """
    where = f"{constants.ENDPOINT}/{repo_id}"
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, FAILURES):
        doing, error = f"{doing} ({_first_line(error)})", error.__cause__
    if isinstance(error, HFValidationError):
        return UserError(f"{repo_id!r} is not the name of a Hub repository; write ORG/NAME ({_first_line(error)})")
    if isinstance(error, OfflineModeIsEnabled):
        return UserError("HF_HUB_OFFLINE=1 forbids asking the Hub; unset it to push")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        helps = {
            400: "see what it says about the files, then push again",
            401: f"the token is not valid: {TOKEN_HELP.format(endpoint=constants.ENDPOINT)}",
            403: f"the token may not write to {repo_id}: {TOKEN_HELP.format(endpoint=constants.ENDPOINT)}",
            404: "check the name and whether the token may see it",
            409: "it was set by another client meanwhile; push again",
            412: "another client committed to it meanwhile; look at that commit, then push again",
        }
        reason = " ".join((error.server_message or "no reason given").split())
        help_ = helps.get(status, "push again later; it continues where it stopped")
        return UserError(f"{where}: {doing} failed with {status} ({reason}); {help_}")
    if isinstance(error, ValueError):
        return UserError(f"{where}: {doing} failed: {' '.join(str(error).split())}; correct the card, then push again")
    return UserError(
        f"{where}: {doing} failed ({type(error).__name__}: {_first_line(error)}); check the connection and push again; "
        f"it continues where it stopped"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]

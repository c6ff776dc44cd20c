"""Runs on the Hugging Face Hub: their names, ``hf://user/name@revision``, and how they are downloaded and uploaded.

`huggingface_hub` is imported when a name is used. Nothing downloaded is executed or unpickled: the files, only those in
`FETCHED`, are JSON, YAML and safetensors.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from vaekit._version import __version__
from vaekit.errors import HubError, UsageError, plain, reason_of
from vaekit.extras import import_extra
from vaekit.files import cache_folder, local_path, writing

CONFIG, WEIGHTS, LOSSES = "config.json", "model.safetensors", "losses.safetensors"
NUMBERS = ("evaluation.json", "metrics.jsonl", "threshold.json")
"""The files of a run folder that are shared as they are, if it has them."""
FETCHED = (CONFIG, WEIGHTS, LOSSES, *NUMBERS)
"""The files of a repository that are downloaded."""
SECTIONS = frozenset({"model", "data", "train"})
"""The keys of `CONFIG`, which is the spec of the run; files of other libraries have other keys."""
LARGEST_CONFIG = 1_000_000
"""The largest `CONFIG` in bytes."""
NAME = re.compile(r"(?:models/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@\s]+))?/?")
LOG_IN = "log in with `hf auth login`, set HF_TOKEN, or pass a token"


class Location(NamedTuple):
    """A model on the Hub.

    Args:
        repo: The name of the repository, ``user/name``.
        revision: A branch, a tag or a commit; None for the main branch.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repo}" + ("" if self.revision is None else f"@{self.revision}")


def location(path: str | Path) -> Location | None:
    """Return the model on the Hub named by the user; None for the path of a file or folder.

    Raises:
        UsageError: It starts with ``hf:``, but is not the name of a model.

    Example:
        >>> print(location("hf://ada/digits@v2"))
        hf://ada/digits@v2
        >>> print(location("runs/0001-digits-mlp"))
        None
    """
    text = str(path).replace("\\", "/")
    if not text.startswith("hf:/"):  # a Path keeps only one slash
        return None
    match = NAME.fullmatch(text.removeprefix("hf:").lstrip("/"))
    if match is None:
        raise UsageError("not the name of a model on the Hub", given=text, expected="hf://user/name or hf://user/name@revision")
    return Location(match["repo"], match["revision"])


def shown(path: str | Path) -> str:
    """Return a name as the user wrote it: a `Path` lacks a slash of ``hf://``."""
    return str(location(path) or path)


def repository(name: str) -> Location:
    """Return the model on the Hub that ``user/name`` or ``hf://user/name`` means.

    Raises:
        UsageError: It is not such a name.
    """
    found = location(name if name.startswith("hf:") else f"hf://{name}")
    assert found is not None  # since it starts with hf:
    return found


def local_run(
    path: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the folder, or file, of a run named by the user: a local path, or ``hf://user/name@revision``.

    The files of a run on the Hub are copied from the cache of `huggingface_hub`, which is shared, to a folder of vaekit's own for
    each commit, where pictures, exports and evaluations of the run are written.

    Args:
        path: The path or name that the user gives.
        revision: A branch, a tag or a commit, unless the name includes it.
        token: A token of the Hub; default: that of HF_TOKEN or of `hf auth login`.
        cache_dir: A folder for downloads; default: the caches of `huggingface_hub` and of vaekit.
        local_files_only: Whether to use the cache only, without contacting the Hub.

    Raises:
        UsageError: It is neither a path nor such a name, or `huggingface_hub` is not installed.
        HubError: The model does not exist, the Hub cannot be reached, or the repository is not vaekit's.
    """
    where = location(path)
    if where is None:
        if revision is not None:
            raise UsageError(
                "only a run on the Hub has revisions", given=f"{path}, revision {revision!r}", expected="hf://user/name"
            )
        return local_path(path)
    snapshot = fetch(path, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    root = cache_folder() / "hub" if cache_dir is None else Path(cache_dir).expanduser() / "vaekit"
    folder = root / where.repo.replace("/", "--") / snapshot.name
    with writing(folder):
        if not folder.is_dir():
            _copy(snapshot, folder)
    return folder


def _copy(snapshot: Path, folder: Path) -> None:
    """Copy the files of a snapshot to a new folder, which appears atomically; another process may create it at the same time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name in FETCHED:
            if (snapshot / name).is_file():
                shutil.copyfile(snapshot / name, temporary / name)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fetch(
    path: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Download the files of a run on the Hub; return their folder in the cache of `huggingface_hub`, not to be modified.

    The folder has the name of the commit. The weights are downloaded only if the repository is vaekit's. See `local_run`.

    Raises:
        UsageError: ``path`` is not the name of a model on the Hub, or `huggingface_hub` is not installed.
        HubError: The model does not exist, the Hub cannot be reached, or the repository is not vaekit's.
    """
    where = location(path)
    if where is None:
        raise UsageError("not the name of a model on the Hub", given=path, expected="hf://user/name")
    if revision is not None and where.revision not in (None, revision):
        raise UsageError("two revisions are given", given=f"{where} and {revision!r}", remedy="leave one of them out")
    where = where._replace(revision=revision or where.revision)
    library = import_extra("huggingface_hub", "hub", f"{where}, a run on the Hub,")
    given: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    given |= {"library_name": "vaekit", "library_version": __version__}
    with _explained(where, offline=local_files_only):
        folder = Path(library.snapshot_download(where.repo, revision=where.revision, allow_patterns=[CONFIG], **given))
        _require_ours(folder, where)
        folder = Path(library.snapshot_download(where.repo, revision=folder.name, allow_patterns=list(FETCHED), **given))
    if not (folder / WEIGHTS).is_file():
        raise HubError(f"{where} has no {WEIGHTS}", expected="a run uploaded by `vaekit push`")
    return folder


def _require_ours(folder: Path, where: Location) -> None:
    """Check that a repository holds a run.

    Raises:
        HubError: It does not.
    """
    config = folder / CONFIG
    try:
        found = json.loads(config.read_bytes()) if config.stat().st_size <= LARGEST_CONFIG else None
    except FileNotFoundError:
        given = f"a repository without {CONFIG}"
    except (ValueError, RecursionError) as error:
        given = f"{CONFIG} is not JSON: {plain(error)}"
    else:
        if isinstance(found, dict) and found.keys() >= SECTIONS:
            return
        given = f"a {CONFIG} of another library"
    raise HubError(f"{where} is not a vaekit run", given=given, expected="a run uploaded by `vaekit push`")


def check_token(token: str | None) -> None:
    """Check that there is a token for uploading.

    Raises:
        UsageError: There is none, or `huggingface_hub` is not installed.
    """
    library = import_extra("huggingface_hub", "hub", "uploading to the Hub")
    if token is None and library.get_token() is None:
        raise UsageError("uploading to the Hub needs a token, but there is none", remedy=LOG_IN)


def upload(
    folder: Path,
    where: Location,
    *,
    replaces: tuple[str, ...] = (),
    token: str | None = None,
    private: bool | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload a folder to the Hub, to a new repository or as a new commit; return the address of the commit.

    Args:
        folder: The folder.
        where: The repository, and the branch, which is created if it does not exist.
        replaces: Files of an earlier upload that are removed unless the folder has them.
        token: A token with write access; default: that of HF_TOKEN or of `hf auth login`.
        private: Whether a new repository is private; default: its owner's setting.
        commit_message: The commit message.

    Raises:
        UsageError: `huggingface_hub` is not installed.
        HubError: The Hub cannot be reached, or refuses the upload; or the repository should be private but is public.
    """
    library = import_extra("huggingface_hub", "hub", "uploading to the Hub")
    with _explained(where):
        api = library.HfApi(token=token, library_name="vaekit", library_version=__version__)
        api.create_repo(where.repo, private=private, exist_ok=True)
        if private and not api.model_info(where.repo).private:
            raise HubError(
                f"hf://{where.repo} already exists and is public", expected="a private repository", remedy="change it on the Hub"
            )
        if where.revision is not None:
            api.create_branch(where.repo, branch=where.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=where.repo,
            folder_path=folder,
            revision=where.revision,
            commit_message=commit_message or "Upload a vaekit run",
            delete_patterns=[*replaces] or None,
        )
    return str(commit.commit_url)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let `huggingface_hub` show progress bars only in a terminal, unless its environment variable says otherwise."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    utils: Any = importlib.import_module("huggingface_hub.utils")
    hide = not sys.stderr.isatty() and constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not utils.are_progress_bars_disabled()
    if hide:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            utils.enable_progress_bars()


@contextmanager
def _explained(where: Location, *, offline: bool = False) -> Iterator[None]:
    """Turn the errors of `huggingface_hub` within the context into errors that say what to do.

    Args:
        where: The model.
        offline: Whether the caller forbids a connection.
    """
    errors: Any = importlib.import_module("huggingface_hub.errors")
    constants: Any = importlib.import_module("huggingface_hub.constants")
    page = f"{constants.ENDPOINT}/{where.repo}"
    try:
        with _quiet():
            yield
    except errors.GatedRepoError as error:
        raise HubError(f"access to {where} is restricted", given=_said(error), remedy=f"request it at {page}; {LOG_IN}") from None
    except errors.RevisionNotFoundError:
        raise HubError(
            f"hf://{where.repo} has no revision {where.revision!r}",
            expected="a branch, a tag or a commit",
            remedy=f"see {page}/tree/main",
        ) from None
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"there is no model hf://{where.repo}, or it is private",
            given=_said(error),
            expected="hf://user/name",
            remedy=f"check the name; if it is private, {LOG_IN}",
        ) from None
    except errors.HFValidationError as error:
        raise UsageError(f"{where} cannot be the name of a model", given=plain(error), expected="hf://user/name") from None
    except errors.LocalEntryNotFoundError as error:
        if offline or constants.HF_HUB_OFFLINE:
            raise HubError(
                f"{where} is not in the local cache, and no connection is allowed",
                remedy="download it once with a connection: without local_files_only, and without HF_HUB_OFFLINE",
            ) from None
        raise _unreachable(where, constants.ENDPOINT, error.__cause__ or error) from None
    except errors.HfHubHTTPError as error:
        raise _refused(where, error) from None
    except ValueError as error:
        raise HubError(f"{where}: the Hub refused the request", given=plain(error)) from None
    except (OSError, errors.HTTPError) as error:  # the second is the base class of connection errors
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise  # it comes from the file system
        raise _unreachable(where, constants.ENDPOINT, error) from None


def _unreachable(where: Location, endpoint: str, error: BaseException) -> HubError:
    return HubError(
        f"{where}: the Hub cannot be reached",
        given=reason_of(error),
        expected=f"a connection to {endpoint}",
        remedy="check the connection, HTTPS_PROXY and HF_ENDPOINT if you use them; runs downloaded before need no connection",
    )


def _refused(where: Location, error: Any) -> HubError:
    """Return the error for an HTTP status other than that of a missing repository."""
    status = getattr(error.response, "status_code", None)
    if status in {401, 403}:
        return HubError(f"{where}: the token is missing, invalid, or lacks permission", given=_said(error), remedy=LOG_IN)
    remedy = "try again later" if status == 429 or (status or 0) >= 500 else None
    return HubError(f"{where}: the Hub refused the request", given=_said(error), remedy=remedy)


def _said(error: Any) -> str:
    """Return the status and the message of a response."""
    status = getattr(error.response, "status_code", "")
    return plain(f"{status} {getattr(error, 'server_message', None) or ''}".strip() or error)

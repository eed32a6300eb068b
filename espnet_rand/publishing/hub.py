"""Uploads a folder to the Hugging Face hub."""

import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Optional, Set

from espnet_rand.errors import NotInstalledError, UserError, one_line
from espnet_rand.shipping.output import files_of

#: what tells a repository that an earlier run of this command wrote
_OURS = {"meta.yaml", "report.json"}
_OF_THE_HUB = {".gitattributes"}


class HubError(UserError):
    """The hub cannot be reached, or refuses."""


def check_tag(tag: str) -> None:
    """Check the name of a repository. Raises HubError: it is none of a user, or of an organization."""
    name = r"(?!.*(\.\.|--))[A-Za-z0-9_]([\w.-]*[A-Za-z0-9_])?"
    if not re.fullmatch(rf"{name}/{name}", tag, re.ASCII) or len(tag) > 96 or tag.endswith(".git"):
        raise HubError(
            f"--repo: {tag!r} is not allowed. Fix: USER/NAME, of letters, digits and single . - _ within them, "
            "96 at most in all"
        )


class Hub:
    """The repository that a folder goes to. What can be known before the work is asked when it is made.

    Args:
        tag: user/name

    Raises:
        NotInstalledError: huggingface_hub is missing
        HubError: the name is not allowed, there is no token or network, the token may not write, or the repository
            has files of others
    """

    def __init__(self, tag: str):
        check_tag(tag)
        hub = _library()
        self.tag, self.token = tag, hub.get_token()
        if not self.token:
            raise HubError(
                "--repo: there is no token of the hub. Fix: `hf auth login`, or HF_TOKEN in the environment; or leave "
                "--repo out, and the folder is made without an upload"
            )
        self._api = hub.HfApi(token=self.token)
        self._missing = hub.errors.RepositoryNotFoundError
        with _explaining(f"{tag}: nothing was made"):
            self._check_rights(self._api.whoami())
            there = self._files()
        if there and not there >= _OURS:
            raise HubError(
                f"--repo: {tag} has files that this command did not write, as {min(there)}. Fix: choose another name"
            )

    def upload(self, folder: Path) -> str:
        """Upload a folder in one commit, in place of an earlier one, and make the repository where there is none.

        Returns:
            its address

        Raises:
            HubError: the network or the hub fail; nothing of the folder is there then
        """
        hub, names = _library(), files_of(folder)
        with _explaining(f"{self.tag}: nothing was uploaded, {folder} is complete"):
            address = self._api.create_repo(self.tag, exist_ok=True)
            changes = [hub.CommitOperationAdd(name, folder / name) for name in names]
            changes += [hub.CommitOperationDelete(name) for name in sorted(self._files() - {*names})]
            self._api.create_commit(self.tag, changes, commit_message="Publish by espnet_rand")
        return str(address)

    def _files(self) -> Set[str]:
        """The files that the repository has but the hub's own; none where there is no repository."""
        try:
            return {*self._api.list_repo_files(self.tag)} - _OF_THE_HUB
        except self._missing:
            return set()

    def _check_rights(self, account: Any) -> None:
        """Raises HubError: the token may not write to the repository."""
        owner, names = self.tag.partition("/")[0], [account["name"], *(one["name"] for one in account.get("orgs", ()))]
        role = ((account.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read" or owner.casefold() not in map(str.casefold, names):
            may = "may only read" if role == "read" else f"is of {', '.join(names)}"
            raise HubError(f"--repo: the token {may}. Fix: another token, with the right to write to {owner}")


def get_token() -> Optional[str]:
    """The token of the hub that this user has, if any."""
    return _library().get_token()


def _library() -> Any:
    try:
        import espnet_model_zoo  # noqa: F401, the check wants it
        import huggingface_hub
    except ImportError as e:
        raise NotInstalledError(f"{e.name} is not installed. Fix: pip install 'espnet_rand[publish]'") from None
    return huggingface_hub


@contextmanager
def _explaining(state: str) -> Iterator[None]:
    """Let the hub be asked inside the block, and say what a refusal means and how things stand: `state`."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:  # whatever the network and the services raise
        status = getattr(getattr(e, "response", None), "status_code", None)
        fix = {
            401: "another token: this one is wrong or out of date",
            403: "another token, with the right to write, or another name",
        }.get(status, "see that the network is there, and run this again")
        reason = one_line(e).rstrip(".")
        raise HubError(f"{state}: {reason}. Fix: {fix}") from None

"""Programs on the Hugging Face Hub, as the files that :func:`pyro_vae.save` writes.

The Hub's ``ModelHubMixin`` gives a class its methods and reads the arguments of its constructor from a
``config.json``. Here the class of a program is in its recipe, beside the weights and with their checksum, and a program
may be a pair of functions, which has no class. So the folder of ``save`` is uploaded as it is, and a snapshot of it is
loaded by ``load``. What is read is data: nothing but the weights and the recipe is downloaded, and no code runs.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyro_vae.evaluation.evaluations import Evaluation
from pyro_vae.runtime.arguments import PathLike, checked
from pyro_vae.runtime.files import write_text
from pyro_vae.runtime.optional import imported, install
from pyro_vae.sharing.cards import model_card
from pyro_vae.training.checkpoint import PROGRAM, WEIGHTS, load, save

__all__ = ["from_hub", "push_to_hub"]


@checked
def push_to_hub(
    program: Any,
    repo_id: str,
    evaluation: Evaluation | None = None,
    *,
    data: str | None = None,
    license: str | None = None,
    card: str | None = None,
    private: bool | None = None,
    message: str | None = None,
    branch: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a program with its model card to a repository of the Hugging Face Hub, which is made if it is missing.

    Parameters
    ----------
    program
        A program, or a pair ``(model, guide)``, as for :func:`pyro_vae.save`.
    repo_id
        The repository, ``"user/name"``. Its files of the same names are replaced, the card too.
    evaluation
        What :func:`pyro_vae.evaluate` returned, for the card and for ``evaluation.json``. Without it, that of an
        earlier upload is removed.
    data, license
        As for :func:`model_card`.
    card
        Another card than the one that :func:`model_card` makes.
    private
        Whether a repository that is made is private.
    message
        Of the commit.
    branch
        To commit to, which must exist; ``main`` by default.
    token
        Of your account; by default the one that ``hf auth login`` has stored.

    Returns
    -------
    The hash of the commit, by which ``from_hub(repo_id, revision=...)`` finds these very files.

    Raises
    ------
    ImportError
        If the package ``huggingface-hub`` is not installed.
    ValueError
        If the program cannot be saved, and for ``data`` or ``license`` beside a card.
    """
    for name, value in (("data", data), ("license", license)):
        if card is not None and value is not None:
            raise ValueError(f"{name}: found {value!r} beside a card, expected it in the card")
    api = _hub("push_to_hub").HfApi(token=token)
    if card is None:
        card = model_card(program, evaluation, data=data, license=license, repo_id=repo_id)
    with TemporaryDirectory() as folder:
        save(program, folder)
        write_text(Path(folder) / "README.md", card)
        if evaluation is not None:
            evaluation.save(Path(folder) / "evaluation.json")
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=message or f"Upload {type(program).__name__} by pyro_vae",
            revision=branch,
            delete_patterns=None if evaluation is not None else "evaluation.json",  # that of other weights
        )
    return str(commit.oid)


@checked
def from_hub(
    repo_id: str,
    revision: str | None = None,
    program: Any = None,
    *,
    token: str | None = None,
    cache_dir: PathLike | None = None,
    local_files_only: bool = False,
) -> Any:
    """Load a program from a repository of the Hugging Face Hub.

    Parameters
    ----------
    repo_id
        The repository, ``"user/name"``.
    revision
        The hash of a commit, which always gives the same weights; or a branch or tag, which may move on. By default the
        newest commit of ``main``.
    program
        As for :func:`pyro_vae.load`: where to load the weights of a program that is not packaged.
    token
        Of your account, for a private repository.
    cache_dir
        Where downloads are kept; by default where ``huggingface_hub`` keeps them.
    local_files_only
        Take what was downloaded before, without a look at the network.

    Raises
    ------
    ImportError
        If the package ``huggingface-hub`` is not installed.
    FileNotFoundError
        If the repository holds no program of this package.
    ValueError
        As :func:`pyro_vae.load`.
    """
    folder = _hub("from_hub").HfApi(token=token).snapshot_download(
        repo_id,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        allow_patterns=[WEIGHTS, PROGRAM],
    )  # fmt: skip
    missing = [name for name in (WEIGHTS, PROGRAM) if not (Path(folder) / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{repo_id}: found no {' and no '.join(missing)}, expected a repository that push_to_hub wrote"
        )
    return load(folder, program)


def _hub(name: str) -> Any:
    return imported("huggingface_hub", "huggingface-hub", name, install("hub"))

"""Programs go to the Hub and come back, over a stand-in that holds commits in memory; nothing is asked of a network."""

from __future__ import annotations

import json
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import torch
from torch import nn

import pyro_vae
from tests.support.programs import TutorialGuide, TutorialModel, bits, same, vae, weights

huggingface_hub = pytest.importorskip("huggingface_hub")

X = bits(12)
API = huggingface_hub.HfApi


class Hub:
    """Repositories of commits, each a dictionary of files; the calls are held against huggingface_hub's signatures."""

    def __init__(self, folder):
        self.folder, self.commits, self.private, self.tokens = folder, {}, {}, []

    def api(self, token=None):
        self.tokens.append(token)
        api = create_autospec(API, instance=True)
        api.create_repo.side_effect = self.create_repo
        api.upload_folder.side_effect = self.upload_folder
        api.snapshot_download.side_effect = self.snapshot_download
        return api

    def create_repo(self, repo_id, private=None, exist_ok=False):
        assert exist_ok or repo_id not in self.commits
        self.commits.setdefault(repo_id, [])
        self.private.setdefault(repo_id, private)

    def upload_folder(self, repo_id, folder_path, commit_message, revision, delete_patterns):
        assert commit_message and revision is None
        before = self.commits[repo_id][-1][1] if self.commits[repo_id] else {}
        before = {name: file for name, file in before.items() if name != delete_patterns}
        new = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return self.commit(repo_id, before | new)

    def commit(self, repo_id, files):
        oid = f"{len(self.commits[repo_id]):040x}"
        self.commits[repo_id].append((oid, files))
        return SimpleNamespace(oid=oid)

    def snapshot_download(self, repo_id, revision, cache_dir, local_files_only, allow_patterns):
        oid, files = dict(self.commits[repo_id]), self.commits[repo_id][-1]
        oid, files = files if revision is None else (revision, oid[revision])
        folder = self.folder / repo_id / "snapshots" / oid
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                blob = self.folder / f"{oid}-{name}"  # as the cache has them: links to files of other names
                blob.write_bytes(content)
                if not (folder / name).exists():
                    (folder / name).symlink_to(blob)
        return str(folder)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    found = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", found.api)
    return found


def test_a_program_comes_back_with_its_card(hub):
    program = vae()
    options = {"num_particles": 50, "num_refined": 0, "annealed": False, "progress": False}
    evaluation = pyro_vae.evaluate(program.model, program.guide, X, **options)
    revision = pyro_vae.push_to_hub(
        program, "me/digits", evaluation, data="bits", license="mit", private=True, token="secret"
    )
    assert hub.private == {"me/digits": True} and hub.tokens == ["secret"]
    ((oid, files),) = hub.commits["me/digits"]
    assert oid == revision
    assert set(files) == {"README.md", "checkpoint.safetensors", "program.json", "evaluation.json"}
    card = pyro_vae.model_card(program, evaluation, data="bits", license="mit", repo_id="me/digits")
    assert files["README.md"].decode() == card and "# digits" in card
    assert json.loads(files["evaluation.json"]) == json.loads(json.dumps(evaluation.as_dict()))
    copy = pyro_vae.from_hub("me/digits", revision)
    assert type(copy) is pyro_vae.VAE and same(weights(copy), weights(program))
    pyro_vae.push_to_hub(vae(), "me/digits")  # other weights, which were not evaluated
    files = hub.commits["me/digits"][-1][1]
    assert set(files) == {"README.md", "checkpoint.safetensors", "program.json"}
    assert b"Not evaluated." in files["README.md"]


def test_a_revision_stays_what_it_was(hub):
    first, second = vae(), vae()
    revision = pyro_vae.push_to_hub(first, "me/digits")
    pyro_vae.push_to_hub(second, "me/digits", card="my own words")
    assert hub.commits["me/digits"][-1][1]["README.md"] == b"my own words"
    assert same(weights(pyro_vae.from_hub("me/digits", revision)), weights(first))
    assert same(weights(pyro_vae.from_hub("me/digits")), weights(second))


def test_nothing_but_data_is_downloaded(hub, tmp_path):
    pyro_vae.push_to_hub(vae(), "me/digits")
    files = dict.fromkeys(("pytorch_model.bin", "modeling.py", "x.pkl", "sub/checkpoint.pt"), b"import os")
    hub.commit("me/digits", hub.commits["me/digits"][-1][1] | files)
    pyro_vae.from_hub("me/digits")
    assert {path.name for path in tmp_path.glob("me/digits/snapshots/*/*")} == {
        "checkpoint.safetensors",
        "program.json",
    }


def test_a_pair_of_ones_own_is_loaded_into_programs(hub):
    pair = TutorialModel(), TutorialGuide()
    pyro_vae.push_to_hub(pair, "me/mine")
    other = TutorialModel(), TutorialGuide()
    with pytest.raises(ValueError, match=r"found no recipe .*, expected load\(folder, program\)"):
        pyro_vae.from_hub("me/mine")
    assert pyro_vae.from_hub("me/mine", program=other) is other
    assert same(weights(*other), weights(*pair))


def test_own_parts_are_named_when_they_are_uploaded(hub):
    program = pyro_vae.VAE(
        prior=pyro_vae.StandardNormal(2),
        likelihood=pyro_vae.Bernoulli(nn.Linear(2, 4), (4,)),
        posterior=pyro_vae.DiagonalNormal(pyro_vae.MLP(4, (2, 2), ())),
    )
    with pytest.warns(UserWarning, match="^save: found parts that are not of this package, Linear"):
        pyro_vae.push_to_hub(program, "me/mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("checkpoint.safetensors", "^me/digits: found no checkpoint.safetensors, expected a repository that push_to_"),
        ("program.json", "^me/digits: found no program.json, expected a repository that push_to_hub wrote$"),
    ],
)
def test_a_repository_without_a_program_is_named(name, message, hub):
    pyro_vae.push_to_hub(vae(), "me/digits")
    hub.commit("me/digits", {key: value for key, value in hub.commits["me/digits"][0][1].items() if key != name})
    with pytest.raises(FileNotFoundError, match=message):
        pyro_vae.from_hub("me/digits")


def test_a_file_that_was_changed_is_refused(hub):
    pyro_vae.push_to_hub(vae(), "me/digits")
    files = dict(hub.commits["me/digits"][0][1])
    recipe = json.loads(files["program.json"])
    recipe["recipe"]["arguments"]["latent_dim"] += 1
    files["program.json"] = json.dumps(recipe).encode()
    hub.commit("me/digits", files)
    with pytest.raises(ValueError, match="program.json"):
        pyro_vae.from_hub("me/digits")


def test_what_cannot_be_meant_is_refused_before_anything_is_uploaded(hub):
    with pytest.raises(ValueError, match="^license: found 'mit' beside a card, expected it in the card$"):
        pyro_vae.push_to_hub(vae(), "me/digits", card="text", license="mit")
    program = vae()
    program.model.prior = pyro_vae.LearnedNormal(2)
    with pytest.raises(ValueError, match="program: part 'model.prior'"):
        pyro_vae.push_to_hub(program, "me/digits")
    assert hub.commits == {}


@pytest.mark.parametrize("call", [lambda: pyro_vae.from_hub("me/x"), lambda: pyro_vae.push_to_hub(vae(), "me/x")])
def test_a_missing_library_is_named_with_its_extra(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'_hub: found huggingface-hub .* pip install "pyro_vae\[hub\]"$'):
        call()


def test_uploading_leaves_the_generators_as_they_were(hub):
    program = vae()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    pyro_vae.push_to_hub(program, "me/digits")
    assert torch.equal(torch.rand(2), expected)

"""The model card holds what the evaluation found, and loads what it says."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml
from torch import nn

import pyro_vae
from tests.support.programs import TutorialGuide, TutorialModel, bits, vae

X = bits(12)


@pytest.fixture(scope="module")
def evaluation():
    program = vae()
    return pyro_vae.evaluate(
        program.model, program.guide, X, num_particles=50, num_refined=0, annealed=False, progress=False
    )


def table(card):
    """The rows of the table, each with its cells."""
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_the_table_is_that_of_the_evaluation(evaluation):
    card = pyro_vae.model_card(vae(), evaluation)
    head, rule, *rows = table(card)
    assert head == ["", "nats per datum", "± Monte Carlo", "± over data", "data"] and len(rule) == 5
    assert rows == [[evaluation.labels[name], *each.cells()] for name, each in evaluation.figures.items()]
    assert all(f"- {sentence}" in card for sentence in evaluation.sentences())


def test_marks_of_figures_that_are_not_to_be_trusted_are_kept(evaluation):
    heavy = evaluation["log_p"]._replace(num_heavy=3)
    marked = pyro_vae.Evaluation(**vars(evaluation) | {"figures": evaluation.figures | {"log_p": heavy}})
    card = pyro_vae.model_card(vae(), marked)
    assert f"± Monte Carlo | ± over data" in card and "† |" in card  # noqa: F541
    assert f"- {marked.caveat()}" in card and marked.caveat().startswith("† 3 of 12 data")


def test_the_header_is_yaml_and_names_the_licence_and_the_data(evaluation):
    card = pyro_vae.model_card(
        vae(), evaluation, title="Digits", data="MNIST, binarised", license="cc-by-4.0", notes="For tests.\n"
    )
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "cc-by-4.0" and yaml.safe_load(header)["library_name"] == "pyro_vae"
    assert text.startswith("\n# Digits\n") and "**Data:** MNIST, binarised\n" in text and "\nFor tests.\n" in text
    assert f"pyro_vae {pyro_vae.__version__}, torch {torch.__version__.partition('+')[0]}" in text.replace("+cpu", "")
    number = sum(parameter.numel() for parameter in vae().parameters())
    assert f"with {number:,} parameters" in text


def test_what_is_not_known_is_said():
    card = pyro_vae.model_card(vae())
    assert "license" not in card.split("---\n", 2)[1]
    assert all(each in card for each in ("**Data:** not named.", "**License:** not named.", "Not evaluated."))


def test_its_lines_load_the_program(tmp_path, monkeypatch):
    program = vae()
    pyro_vae.save(program, tmp_path)
    card = pyro_vae.model_card(program)
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    found = {}
    exec(code.replace("FOLDER", str(tmp_path)), found)
    assert found["x"].shape[0] == 16 and found["score"].values.shape == (16,)
    assert 'from_hub("me/digits", revision="COMMIT")' in pyro_vae.model_card(program, repo_id="me/digits")
    (recipe,) = re.findall(r"```json\n(.*?)```", card, re.DOTALL)
    assert json.loads(recipe) == program.recipe


def test_the_code_that_loading_takes_is_named():
    class Own(nn.Module):
        pass

    program = pyro_vae.VAE((4,), 2, (3,), posterior=pyro_vae.DiagonalNormal(Own()))
    assert "not the code of Own: build the program first" in pyro_vae.model_card(program)
    card = pyro_vae.model_card((TutorialModel(), TutorialGuide()), repo_id="me/mine")
    assert "not the code of TutorialModel and TutorialGuide: build" in card
    assert 'from_hub("me/mine", revision="COMMIT", program=program)' in card and "## Program" not in card


@pytest.mark.parametrize("program", [
    pyro_vae.VAE((4,), 2, (8,)), pyro_vae.CellVAE(4, 2, (8,), categories=(2,)),
    pyro_vae.ConditionalVAE((4,), num_classes=3, latent_dim=2, hidden_dims=(8,)),
])  # fmt: skip
def test_the_lines_that_load_a_program_run(program, tmp_path):
    pyro_vae.save(program, tmp_path)
    (code,) = re.findall("```python\n(.*?)```", pyro_vae.model_card(program), re.DOTALL)
    names = {}
    exec(code.replace("FOLDER", str(tmp_path)), names)
    assert type(names["program"]) is type(program)
    assert ("score" in names) is (type(program) is pyro_vae.VAE)

"""No test of the data may reach the network."""

from __future__ import annotations

from urllib.error import URLError

import pytest
import torch

from tests.support.downloads import torchvision_error, torchvision_mnist


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Let every download fail as it does without a network."""

    def refuse(*args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    if not torchvision_error:
        monkeypatch.setattr(torchvision_mnist, "download_and_extract_archive", refuse)

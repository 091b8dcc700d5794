"""Data sets that yield pictures, or pairs of a picture and a label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import pyro_vae
from pyro_vae.data.loading import load

X = torch.rand(20, 3, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 4


class Items(Dataset):
    """Whatever a function of the index returns, 20 times."""

    def __init__(self, item, **attributes):
        self.item = item
        vars(self).update(attributes)

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return self.item(index)


@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(X, Y),
        Items(lambda index: (X[index].numpy(), int(Y[index]))),
        Items(lambda index: [X[index], Y[index].numpy()]),
    ],
)
def test_pairs_are_data_and_labels(dataset):
    splits, expected = load(dataset, seed=2), load(X, labels=Y, seed=2)
    for name in ("train", "valid", "test"):
        assert torch.equal(getattr(splits, name).values, getattr(expected, name).values)
        assert torch.equal(getattr(splits, name).labels, getattr(expected, name).labels)
    assert splits.classes is None


@pytest.mark.parametrize("dataset", [Items(X.__getitem__), TensorDataset(X)])
def test_data_alone(dataset):
    assert torch.equal(load(dataset).train.values, load(X).train.values) and load(dataset).train.labels is None
    assert torch.equal(load(dataset, labels=Y).train.labels, load(X, labels=Y).train.labels)


@pytest.mark.parametrize("rest", [(0.5,), ("cat",), (1, 2), (torch.zeros(2),)])
def test_other_entries_are_left_out_with_a_warning(rest):
    dataset = Items(lambda index: (X[index], *rest))
    with pytest.warns(
        UserWarning, match=rf"^data: found items of {1 + len(rest)} entries, expected one, or two with an"
    ):
        splits = load(dataset)
    assert torch.equal(splits.train.values, load(X).train.values) and splits.train.labels is None


def test_names_of_classes_are_kept():
    splits = load(Items(lambda index: (X[index], index % 2), classes=["cat", "dog"]))
    assert splits.classes == ("cat", "dog")


def test_a_folder_as_torchvision_reads_it(tmp_path):
    datasets, Image = pytest.importorskip("torchvision.datasets"), pytest.importorskip("PIL.Image")
    pixels = np.random.RandomState(0).randint(0, 256, (20, 6, 5, 3), dtype=np.uint8)
    for index, picture in enumerate(pixels):
        path = tmp_path / ("dog" if index < 10 else "cat") / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    found, expected = load(datasets.ImageFolder(tmp_path)), load(tmp_path)
    assert found.train.values.dtype == torch.uint8 and found.data_shape == (3, 6, 5)
    assert torch.equal(found.train.values, expected.train.values) and torch.equal(found.test[:], expected.test[:])
    assert torch.equal(found.train.labels, expected.train.labels) and found.classes == expected.classes == (
        "cat",
        "dog",
    )
    transforms = pytest.importorskip("torchvision.transforms")
    scaled = load(datasets.ImageFolder(tmp_path, transform=transforms.ToTensor()))
    assert torch.equal(scaled.train[:], expected.train[:])


def test_fit_says_how_a_data_set_of_pictures_is_read():
    Image = pytest.importorskip("PIL.Image")
    dataset, vae = Items(lambda index: (Image.new("L", (4, 3)), 0)), pyro_vae.VAE((3, 4), 2, (3,))
    message = r"^data: found items that make no batch \(default_collate.*Image.*pyro_vae.data.load reads a data set of"
    with pytest.raises(TypeError, match=message):
        pyro_vae.fit(vae.model, vae.guide, dataset, batch_size=5)
    splits = load(dataset, binarize="threshold")
    history = pyro_vae.fit(vae.model, vae.guide, splits, batch_size=5, num_epochs=1, progress=False)
    assert len(history.records) == 1


def test_refusals():
    class Stream(IterableDataset):
        def __iter__(self):
            yield X[0]

    with pytest.raises(
        TypeError, match=r"^data: found .*Stream, which has no length, .* pyro_vae.fit takes a DataLoad"
    ):
        load(Stream())
    with pytest.raises(ValueError, match=r"^data: found an empty .*TensorDataset, expected one datum or more"):
        load(TensorDataset(X[:0]))
    with pytest.raises(
        ValueError, match=r"^data\[1\]: found shape \(4, 3\) and float32, expected \(3, 4\) and float32 as"
    ):
        load(Items(lambda index: X[index] if index == 0 else X[index].T))
    with pytest.raises(TypeError, match=r"^data\[0\]: found a dictionary, expected a datum, or a datum and its label"):
        load(Items(lambda index: {"x": X[index]}))
    with pytest.raises(TypeError, match=r"^data\[0\]: found str, expected a picture, tensor or array"):
        load(Items(lambda index: ("a.png", 1)))
    with pytest.raises(TypeError, match=r"^data: found pyro_vae.data.split.Split, expected a tensor or a NumPy array"):
        load(load(X).train)
    with pytest.raises(ValueError, match=r"^data: found shape \(20, 8, 8, 3\), which looks like pictures"):
        load(Items(lambda index: np.zeros((8, 8, 3))))

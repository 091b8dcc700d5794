"""The same counts in every kind of place that data on disk can have."""

from __future__ import annotations

import numpy as np
import pytest

N, D = 203, 6
X = np.random.default_rng(0).poisson(1.0, (N, D)).astype(np.float32)
KINDS = np.array(["T", "B", "NK"])[np.arange(N) % 3]


def memory_map(folder):
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r")


def part_of_a_memory_map(folder):
    np.save(folder / "x.npy", np.concatenate([X[:7] + 50, X, X[:2] + 50]))
    return np.load(folder / "x.npy", mmap_mode="r")[7 : 7 + N]


def raw_memory_map(folder):
    X.astype(">f4").tofile(folder / "x.bin")
    return np.memmap(folder / "x.bin", ">f4", "r", shape=(N, D))


def columns_of_a_memory_map(folder):
    np.save(folder / "x.npy", np.concatenate([X[:, :2], X], 1))
    return np.load(folder / "x.npy", mmap_mode="r")[:, 2:]


def private_memory_map(folder):
    np.save(folder / "x.npy", np.zeros_like(X))
    found = np.load(folder / "x.npy", mmap_mode="c")
    found[:] = X
    return found


def npy_file(folder):
    np.save(folder / "x.npy", X)
    return folder / "x.npy"


def folder_of_npy(folder):
    for index, part in enumerate(np.split(X, [50, 51, 140])):
        np.save(folder / f"part{index}.npy", part)
    return folder


def folder_of_npz(folder):
    for index, part in enumerate(np.split(X, [50, 51, 140])):
        np.savez_compressed(folder / f"part{index}.npz", part)
    return str(folder)


def zarr_array(folder):
    zarr = pytest.importorskip("zarr")
    found = zarr.open_array(str(folder / "x.zarr"), mode="w", shape=X.shape, chunks=(32, 4), dtype="f4")
    found[:] = X
    return found


def zarr_group(folder):
    zarr = pytest.importorskip("zarr")
    group, options = zarr.open_group(str(folder / "x.zarr"), mode="w"), {"shape": X.shape, "dtype": "f4"}
    if hasattr(group, "create_array"):  # from version 3 on, with several chunks in a file
        found = group.create_array("x", chunks=(8, D), shards=(32, D), **options)
    else:
        found = group.create_dataset("x", chunks=(32, D), **options)
    found[:] = X
    return folder / "x.zarr"


def hdf5_array(folder):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(40, D))
    return h5py.File(folder / "x.h5")["x"]


def cells(folder, x=None):
    anndata, sparse = pytest.importorskip("anndata"), pytest.importorskip("scipy.sparse")
    pandas = pytest.importorskip("pandas")
    obs = pandas.DataFrame({"kind": pandas.Categorical(KINDS)}, index=[f"cell{index}" for index in range(N)])
    found = anndata.AnnData(sparse.csr_matrix(X) if x is None else x, obs=obs)
    found.layers["dense"], found.layers["twice"] = X, sparse.csr_matrix(2 * X)
    found.write_h5ad(folder / "x.h5ad")
    return folder / "x.h5ad"


def backed_cells(folder):
    anndata = pytest.importorskip("anndata")
    return anndata.read_h5ad(cells(folder), backed="r")


def hugging_face(folder):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"x": X}).save_to_disk(folder / "x")
    return datasets.load_from_disk(folder / "x").with_format("torch")


def parquet(folder, **options):
    pyarrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({f"column{index}": X[:, index] for index in range(D)} | options)
    writer.write_table(table, folder / "x.parquet", row_group_size=64)
    return folder / "x.parquet"


def folder_of_parquet(folder):
    pyarrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for index, part in enumerate(np.split(X, [50, 51, 140])):
        writer.write_table(pyarrow.table({f"c{j}": part[:, j] for j in range(D)}), folder / f"part{index}.parquet")
    return folder


def pyarrow_data_set(folder):
    dataset = pytest.importorskip("pyarrow.dataset")
    return dataset.dataset(parquet(folder), format="parquet")


PLACES = {
    make.__name__.replace("_", " "): make
    for make in (
        memory_map, part_of_a_memory_map, raw_memory_map, columns_of_a_memory_map, private_memory_map, npy_file,
        folder_of_npy, folder_of_npz, zarr_array, zarr_group, hdf5_array, cells, backed_cells, hugging_face, parquet,
        folder_of_parquet, pyarrow_data_set,
    )
}  # fmt: skip

"""The map of the latents as a table, for sets too large for a page.

Embedding Atlas and others that read Parquet show it, ``embedding-atlas map.parquet --x x --y y --image image``. Images
are PNG files in the structure ``{bytes, path}`` that data sets of Hugging Face have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyro_vae.reporting.findings import Findings
from pyro_vae.reporting.pictures import png, thumbnails
from pyro_vae.runtime.files import replacing
from pyro_vae.runtime.optional import imported, install

__all__ = ["write_embedding"]


def write_embedding(found: Findings, path: Path) -> None:
    """Write each datum's place on the map, its log p(x) with the error, its k̂, its class and its image.

    Raises
    ------
    ImportError
        If there is no pyarrow.
    LeftOut
        If the latents have no map.
    """
    pyarrow: Any = imported("pyarrow", "pyarrow", "--embedding", install("tables"))
    parquet: Any = imported("pyarrow.parquet", "pyarrow", "--embedding", install("tables"))
    subject, score = found.subject, found.evaluation.log_likelihood
    places = found.located.plane.places
    columns: dict[str, Any] = {
        "x": places[:, 0].numpy(),
        "y": places[:, 1].numpy(),
        "log_p": score.values.cpu().numpy(),
        "log_p_error": score.std_error.cpu().numpy(),
        "khat": score.khat.cpu().numpy(),
    }
    if subject.labels is not None:
        columns["label"] = [subject.class_name(label) for label in subject.labels.tolist()]
    if subject.shows_images:
        columns["image"] = [{"bytes": png(image), "path": None} for image in thumbnails(subject.images())]
    table = pyarrow.table(columns)
    with replacing(path) as temporary:
        parquet.write_table(table, temporary)

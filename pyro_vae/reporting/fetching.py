"""Have npm fetch ONNX Runtime for browsers, and keep what a report embeds: ``python -m pyro_vae.reporting.fetching``.

The package is held against the checksum below before anything of it is kept.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from pyro_vae.reporting.assets import FILES, FOLDER, PACKAGE, places, runtime
from pyro_vae.runtime.files import replacing

__all__ = ["fetch", "keep", "main"]

INTEGRITY = "Ud/+EBo6mhuaQWt/OjaOk0iNWjXqJoeeMFr6xQEERZdIZH2OWpGzuujz7lfuOBjUa6TEE/sc4nb7Da5dNL34fg=="  # SHA-512


def fetch() -> None:
    """Have npm fetch the package, check it, and keep its files.

    Raises
    ------
    FileNotFoundError
        If there is no npm.
    OSError
        If npm cannot fetch the package, or the package is not the one whose checksum stands here.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(f"npm: found none, expected one (it comes with Node.js), to fetch {PACKAGE}")
    with TemporaryDirectory() as folder:
        command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        packed = next(Path(folder).glob("*.tgz"), None)
        if done.returncode or packed is None:
            reason = " ".join((done.stderr or done.stdout).split())[:300]
            raise OSError(f"npm: found no {PACKAGE} ({reason}), expected to fetch it")
        keep(packed)


def keep(packed: Path) -> None:
    """Check a package against the checksum, and keep its files."""
    found = base64.b64encode(hashlib.sha512(packed.read_bytes()).digest()).decode()
    if found != INTEGRITY:
        raise OSError(f"{PACKAGE}: found the SHA-512 {found}, expected {INTEGRITY}")
    with tarfile.open(packed) as archive:
        for name, place in zip(FILES, places(), strict=True):
            file = archive.extractfile(f"package/dist/{name}")
            assert file is not None  # the checksum says what is in there
            with replacing(place) as temporary:
                temporary.write_bytes(gzip.compress(file.read(), 9, mtime=0))


def main() -> int:
    """Fetch what is missing, and return the exit status."""
    if runtime() is None:
        try:
            fetch()
        except OSError as error:
            print(f"no latent explorer in reports: {error}", file=sys.stderr)
            return 1
    print(f"{PACKAGE} is in {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Run Pyro's own tests of inference with this package's bounds in the place of its ELBOs.

The tests are Pyro's, and no part of this project. This gets them:

    git clone --branch 1.9.1 https://github.com/pyro-ppl/pyro

    python -m tests.pyro.run --pyro-source pyro --table pyro_tests.txt
    python -m tests.pyro.run --pyro-source pyro -k test_gradient         # further arguments are pytest's
    python -m tests.pyro.run --pyro-source pyro --pyros-own              # the same tests with Pyro's ELBOs

Copies of the tests run beside the Pyro that is installed. The table says what passed, what this package refused, and
what went wrong; the exit status is 0 if nothing did.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = [f"tests/infer/test_{name}.py" for name in ("gradient", "inference", "valid_models", "multi_sample_elbos")]
AROUND = ["setup.cfg", "tests/__init__.py", "tests/common.py", "tests/conftest.py", "tests/infer/__init__.py"]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tests.pyro.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--pyro-source", type=Path, required=True, metavar="FOLDER", help="a checkout of Pyro")
    made.add_argument("--jobs", type=int, default=2, help="how many processes to run (default: %(default)s)")
    made.add_argument("--table", type=Path, metavar="FILE", help="where to keep the table, which is printed anyhow")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    given, for_pytest = parser().parse_known_args(arguments)
    missing = [name for name in TESTS + AROUND if not (given.pyro_source / name).is_file()]
    if missing:
        parser().error(f"--pyro-source: found no {missing[0]} in {given.pyro_source}, expected a checkout of Pyro")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "tests" / "infer").mkdir(parents=True)
        for name in TESTS + AROUND:
            shutil.copy(given.pyro_source / name, root / name)
        table = given.table.resolve() if given.table else root / "table.txt"
        command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"]
        command += ["-p", "replacing", "-p", "outcomes", "--table", str(table)]
        command += ["-n", str(given.jobs), "--dist", "worksteal"] if given.jobs > 1 else []
        paths = [str(HERE), str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        environment.pop("PYTEST_ADDOPTS", None)
        status = subprocess.run([*command, *for_pytest, *TESTS], cwd=root, env=environment).returncode
        if table.is_file():
            print(table.read_text(encoding="utf-8"))
    return status


if __name__ == "__main__":
    sys.exit(main())

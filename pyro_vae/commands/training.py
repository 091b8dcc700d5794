"""Train a program as its settings say, score it and draw it, in a folder from which the run can be resumed."""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from contextlib import nullcontext, redirect_stdout, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pyro_vae.commands import reporting
from pyro_vae.commands.options import OBJECTIVES, own_options
from pyro_vae.commands.runs import best_device, build, prepared, speed, weighed
from pyro_vae.commands.settings import configure
from pyro_vae.commands.summary import print_scores, score
from pyro_vae.commands.tables import table_of
from pyro_vae.data.loading import Splits
from pyro_vae.inference.annealing import Annealed
from pyro_vae.runtime.files import write_text
from pyro_vae.runtime.launched import number_in
from pyro_vae.runtime.optional import install
from pyro_vae.runtime.ranks import alone, ranks
from pyro_vae.runtime.tensor_files import read_tensors
from pyro_vae.training import checkpoint
from pyro_vae.training.fitting import fit
from pyro_vae.training.history import History

__all__ = ["run", "train"]


def train(vae: Any, splits: Splits, config: dict[str, Any], folder: Path, resume: bool) -> Any:
    """Train the program and return the history; what there is of a run that never began is removed."""
    options = own_options("bound", config["objective"])
    objective = OBJECTIVES[config["objective"]](**{name: config[name] for name in options})
    if resume:  # before a batch is run with it, which may take more memory than there is
        state = json.loads(read_tensors(folder / "last.safetensors")[1].get("run", "{}"))
        before = state["facts"]["objective"] if "facts" in state else None
        if before != repr(objective):
            raise ValueError(f"{folder / 'config.json'}: objective: found {objective}, expected {before} as before")
    model, guide = weighed(vae, math.ceil(len(splits.train) / config["batch_size"]), config)
    kl = f" under {model}" if isinstance(model, Annealed) else ""
    shape = f"{splits.data_shape}"
    if (table := table_of(config)) is not None:
        print(table)
        shape = f"of {len(table.columns)} columns"
    print(f"{len(splits.train)} training data {shape}, {type(vae).__name__}, {objective}{kl}, "
          f"on {next(vae.parameters()).device}; results in {folder}", flush=True)  # fmt: skip
    if not resume and ranks().is_first:
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    try:
        return fit(
            model, guide, splits, objective=objective, num_epochs=config["epochs"],
            batch_size=config["batch_size"], lr=lambda done: config["lr"] * 0.5 * (1 + math.cos(math.pi * done)),
            clip_norm=config["clip_norm"], seed=config["seed"], checkpoint=folder, resume=resume, **speed(config),
        )  # fmt: skip
    except (ValueError, TypeError, OSError):
        never_began = not resume and not (folder / "last.safetensors").exists()
        if never_began and ranks().is_first:  # leave nothing behind
            with suppress(OSError):
                (folder / "config.json").unlink()
                folder.rmdir()
        raise


def run(args: argparse.Namespace, command: str) -> int:
    """Train, score and draw what the options say, and return the exit status; ``command`` is what can resume it.

    Of several ranks the first one decides on the folder, writes and prints. A run that their launcher starts again goes
    on in the folder that ``--out`` names.
    """
    _go_on(args)
    config, folder = ranks().first(lambda: configure(args))
    try:
        with nullcontext() if ranks().is_first else redirect_stdout(io.StringIO()):
            return _run(config, folder, args.resume is not None, command, not args.no_report)
    except KeyboardInterrupt:  # outside of training, which stops by itself
        resumes = (folder / "config.json").is_file()
        print(f"interrupted; {command} --resume {folder} goes on" if resumes else "interrupted", file=sys.stderr)
        return 130


def _go_on(args: argparse.Namespace) -> None:
    """Resume a run that its launcher has started again."""
    is_restarted = number_in("TORCHELASTIC_RESTART_COUNT") > 0
    if is_restarted and args.resume is None and args.out and (Path(args.out) / "config.json").is_file():
        args.resume, args.out = args.out, None
        args.given.pop("out", None)


def _run(config: dict[str, Any], folder: Path, resume: bool, command: str, reports: bool) -> int:
    has_pictures = find_spec("matplotlib") is not None
    if not has_pictures:
        print(f"no pictures will be drawn: found no matplotlib; {install('report')} brings it", file=sys.stderr)
    config, splits = prepared(config)
    begun = resume and (folder / "last.safetensors").is_file()
    if resume and not begun:  # killed after its first file
        print(f"the run in {folder} had not begun, and begins now", file=sys.stderr)
    vae = build(config, splits, folder if begun else None).to(best_device(config["device"]))
    history = train(vae, splits, config, folder, resume=begun)
    if history.interrupted:
        if ranks().is_first:
            print(f"interrupted; {command} --resume {folder} goes on", file=sys.stderr)
        return 130
    vae = checkpoint.load(folder).to(best_device(config["device"]))  # the weights of the best epoch
    metrics = score(vae, splits, config)
    metrics["best_epoch"] = history.best["epoch"]
    metrics["training_seconds"] = round(sum(record["seconds"] for record in history.records), 3)
    if not ranks().is_first:
        return 0
    with alone():
        _finish(vae, splits, history, metrics, config, folder, has_pictures, reports)
    return 0


def _finish(
    vae: Any, splits: Splits, history: History, metrics: dict[str, Any], config: dict[str, Any], folder: Path,
    has_pictures: bool, reports: bool,
) -> None:  # fmt: skip
    """Write and print what came out."""
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    if has_pictures:
        from pyro_vae.commands.pictures import draw  # only here, as it needs matplotlib

        draw(vae, splits, history, folder)
    print_scores(metrics)
    print(f"active latent units  {metrics['active_units']:6d} of {metrics['units']}")
    if len(vae.latents) > 1:
        for name, layer in metrics["layers"].items():
            print("  {:<4} {active_units:4d} of {units:<4d} KL {kl:7.2f} nats".format(name, **layer))
    print(f"weights, metrics and pictures are in {folder}" if has_pictures else f"weights and metrics are in {folder}")
    if has_pictures and reports:
        _report(vae, splits, history, config, folder)


def _report(vae: Any, splits: Splits, history: History, config: dict[str, Any], folder: Path) -> None:
    """Write the report; the run is whole without it."""
    options = {"num_particles": config["eval_particles"], "seed": config["seed"]}
    try:
        reporting.write(vae, splits, history.records, config, folder / "report.html", **options)
    except Exception as error:  # whatever it is, the weights and the scores are there
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"no report was made: {reason}; pyro-vae report {folder} tries again", file=sys.stderr)

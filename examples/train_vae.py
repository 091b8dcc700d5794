"""Train a variational autoencoder on images, score it, and draw what it learnt.

    python examples/train_vae.py                                  # 8 x 8 digits, nothing to download
    python examples/train_vae.py --latent-dim 2                   # with pictures of the two-dimensional latent plane
    python examples/train_vae.py --data mnist --data-root DATA --latent-dim 50
    python examples/train_vae.py --data frey_faces --data-root DATA --hidden-dims 200 --activation gelu --epochs 800
    python examples/train_vae.py --data my_images.npy
    python examples/train_vae.py --objective iwae --num-particles 5 --gradient dreg     # another bound
    python examples/train_vae.py --kl-weight 4                    # a β-VAE; --warm-up 20 starts from a weight of 0
    python examples/train_vae.py --program hvae --latent-dims 100 50 --hidden-dims 200,200 100,100  # two layers
    python examples/train_vae.py --program ladder --latent-dims 100 50
    python examples/train_vae.py --program conv-ladder --data mnist --data-root DATA

The results go to a new folder under runs/: config.json, metrics.jsonl (an epoch a line), metrics.json (the final
scores, nats per image), checkpoint.safetensors (the best weights) and the pictures. Ctrl-C stops cleanly, and --resume
goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, get_args

import numpy as np
import torch

import pyro_vae
from pyro_vae import plots
from pyro_vae.evaluation.bounds import mean_bound
from pyro_vae.nn.layers import Activation
from pyro_vae.objectives.gradients import Gradient
from pyro_vae.programs.program import Program
from pyro_vae.runtime.allocation import BoundedAllocation
from pyro_vae.runtime.files import replacing, write_text
from pyro_vae.runtime.precision import Precision
from pyro_vae.runtime.tensor_files import read_tensors
from pyro_vae.schedules import Linear, Schedule

COMPILE: dict[str, Any] = {"auto": "auto", "yes": True, "no": False}
BLACK_AND_WHITE = ("digits", "mnist", "fashion_mnist")

# What each objective takes besides the number of particles, with defaults.
OBJECTIVES: dict[str, tuple[type[pyro_vae.Objective], dict[str, Any]]] = {
    "elbo": (pyro_vae.ELBO, {"num_particles": 1, "free_bits": 0.0, "gradient": "reparam"}),
    "iwae": (pyro_vae.IWAE, {"num_particles": 5, "gradient": "reparam"}),
    "miwae": (pyro_vae.MIWAE, {"num_batches": 5, "num_particles": 5, "gradient": "reparam"}),
    "piwae": (pyro_vae.PIWAE, {"num_batches": 5, "num_particles": 5, "gradient": "reparam"}),
    "ciwae": (pyro_vae.CIWAE, {"beta": 0.5, "num_particles": 5, "gradient": "reparam"}),
    "renyi": (pyro_vae.RenyiBound, {"alpha": 0.5, "num_particles": 5, "gradient": "reparam"}),
    "wake-sleep": (pyro_vae.WakeSleep, {"num_particles": 1}),
    "reweighted-wake-sleep": (pyro_vae.ReweightedWakeSleep, {"num_particles": 5}),
}

# What each program is made with besides the data's shape and the likelihood, with defaults.
PROGRAMS: dict[str, tuple[type[Program], dict[str, Any]]] = {
    "vae": (pyro_vae.VAE, {"latent_dim": 10, "hidden_dims": [200, 200], "activation": "tanh"}),
    "hvae": (
        pyro_vae.HVAE,
        {"latent_dims": [20, 10], "hidden_dims": [200, 200], "activation": "tanh", "guide": "bottom-up"},
    ),
    "ladder": (
        pyro_vae.LadderVAE,
        {"latent_dims": [20, 10], "hidden_dims": [200, 200], "activation": "leaky_relu", "batch_norm": False},
    ),
    "conv-ladder": (
        pyro_vae.ConvLadderVAE,
        {"num_layers": [4, 6, 2], "latent_channels": [2, 4, 16], "channels": [32, 64, 64], "num_blocks": 1},
    ),
}


def widths(text: str) -> int | list[int]:
    """A width, or those of one layer with commas between them."""
    numbers = [int(number) for number in text.split(",")]
    return numbers if "," in text else numbers[0]


def make_parser(make: Callable[..., argparse.ArgumentParser] = argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser = make(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--data", default="digits", metavar="NAME|FILE.npy",
                      help="digits, mnist, fashion_mnist, frey_faces, or a .npy file of your own, one datum a row "
                           "(default: digits)")  # fmt: skip
    data.add_argument("--data-root", metavar="DIR", help="folder with the data files, or where to download them to "
                      "(default: $PYRO_VAE_DATA, else a cache folder)")  # fmt: skip
    data.add_argument("--binarize", choices=["auto", "dynamic", "static", "threshold", "none"], default="auto",
                      help="how grey pixels become black and white; auto: dynamic for the black and white sets, "
                           "none for others (default: auto)")  # fmt: skip
    model = parser.add_argument_group("model")
    model.add_argument("--program", choices=list(PROGRAMS), default="vae", help="one layer of latents, or a hierarchy "
                       "of them (default: vae)")  # fmt: skip
    model.add_argument("--latent-dim", type=int, help="length of the latent z, for vae (default: 10)")
    model.add_argument("--latent-dims", type=int, nargs="+", metavar="LENGTH",
                       help="lengths of z1 (next to the data) to zT, for hvae and ladder (default: 20 10)")  # fmt: skip
    model.add_argument("--hidden-dims", type=widths, nargs="*", metavar="WIDTH",
                       help="hidden layers of the encoder, and reversed of the decoder (default: 200 200); a hierarchy "
                            "has these at every layer, or with commas one by one: 200,200 100,100")  # fmt: skip
    model.add_argument("--activation", choices=get_args(Activation),
                       help="of the hidden layers (default: tanh, for ladder leaky_relu)")  # fmt: skip
    model.add_argument("--guide", choices=["bottom-up", "top-down"],
                       help="order in which the guide draws the layers, for hvae (default: bottom-up)")  # fmt: skip
    model.add_argument("--batch-norm", action="store_true", default=None,
                       help="normalise the hidden layers over the batch, for ladder")  # fmt: skip
    model.add_argument("--num-layers", type=int, nargs="+", metavar="COUNT",
                       help="latent layers of each level of images, each half as large as the one before, the last a "
                            "single pixel, for conv-ladder (default: 4 6 2)")  # fmt: skip
    model.add_argument("--latent-channels", type=int, nargs="+", metavar="COUNT",
                       help="channels of each level's latents, for conv-ladder (default: 2 4 16)")  # fmt: skip
    model.add_argument("--channels", type=int, nargs="+", metavar="COUNT",
                       help="channels of each level's features, for conv-ladder (default: 32 64 64)")  # fmt: skip
    model.add_argument("--num-blocks", type=int, help="residual blocks of each level on the way up, for conv-ladder "
                       "(default: 1)")  # fmt: skip
    model.add_argument("--likelihood", choices=["bernoulli", "gaussian"],
                       help="p(x|z): bernoulli for black and white pixels, gaussian for real ones in [0, 1] "
                            "(default: what suits the data)")  # fmt: skip
    training = parser.add_argument_group("training")
    bound = parser.add_argument_group("bound")
    bound.add_argument("--objective", choices=list(OBJECTIVES), default="elbo", help="what to maximise (default: elbo)")
    bound.add_argument("--num-particles", type=int,
                       help="latents drawn per image (default: 1 for elbo and wake-sleep, else 5)")  # fmt: skip
    bound.add_argument("--num-batches", type=int, help="batches of particles, for miwae and piwae (default: 5)")
    bound.add_argument("--alpha", type=float, help="order of the Rényi divergence, for renyi (default: 0.5)")
    bound.add_argument("--beta", type=float, help="share of the ELBO, for ciwae (default: 0.5)")
    bound.add_argument("--gradient", choices=get_args(Gradient), default="reparam",
                       help="estimator of the guide's gradient (default: reparam)")  # fmt: skip
    bound.add_argument(
        "--free-bits", type=float, help="floor under the latent's mean KL in nats, for elbo (default: 0)"
    )
    bound.add_argument("--kl-weight", type=float, default=1.0, help="weight of the KL in training; 4 makes a β-VAE; "
                       "what is reported is never weighed (default: 1)")  # fmt: skip
    bound.add_argument("--warm-up", type=int, metavar="EPOCHS",
                       help="raise that weight from 0 in a line, over so many epochs (default: a quarter of them for "
                            "ladder, which collapses without; else 0)")  # fmt: skip
    training.add_argument("--epochs", type=int, default=200, help="passes over the training data (default: 200)")
    training.add_argument("--batch-size", type=int, default=100, help="images a step (default: 100)")
    training.add_argument("--lr", type=float, default=2e-3,
                          help="Adam's learning rate, falling to zero by a cosine (default: 0.002)")  # fmt: skip
    training.add_argument(
        "--clip-norm", type=float, help="largest norm of the gradient of the mean loss (default: none)"
    )
    training.add_argument("--seed", type=int, default=0, help="same seed, same result (default: 0)")
    training.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto",
                          help="auto takes a GPU where there is one (default: auto)")  # fmt: skip
    training.add_argument("--precision", choices=get_args(Precision), default="highest",
                          help="of products of float32 matrices (default: highest, exact to float32)")  # fmt: skip
    training.add_argument("--compile", choices=list(COMPILE), default="auto",
                          help="compile the programs; auto does for long runs (default: auto)")  # fmt: skip
    results = parser.add_argument_group("results")
    results.add_argument("--eval-particles", type=int, default=1000,
                         help="importance samples per test image for log p(x) (default: 1000)")  # fmt: skip
    results.add_argument("--out", metavar="DIR", help="folder for the results (default: a new one under runs/)")
    results.add_argument("--resume", metavar="RUN", help="go on with the run in this folder; its own settings apply")
    return parser


def parse(argv: Sequence[str] | None = None, parser: argparse.ArgumentParser | None = None) -> argparse.Namespace:
    parser = parser or make_parser()
    args = parser.parse_args(argv)
    if not -(2**63) <= args.seed < 2**63:
        parser.error(f"argument --seed: found {args.seed}, expected an integer of 64 bits")
    if args.hidden_dims and any(isinstance(group, list) for group in args.hidden_dims):
        args.hidden_dims = [group if isinstance(group, list) else [group] for group in args.hidden_dims]
    for name in ("latent_dim", "num_blocks", "epochs", "batch_size", "eval_particles", "num_particles", "num_batches"):
        value, least = getattr(args, name), 2 if name == "eval_particles" else 1  # an error bar takes two
        if value is not None and value < least:
            parser.error(f"argument --{name.replace('_', '-')}: found {value}, expected {least} or more")
    if args.warm_up is None:
        args.warm_up = args.epochs // 4 if args.program == "ladder" else 0
    if not 0 <= args.warm_up <= args.epochs:
        parser.error(f"argument --warm-up: found {args.warm_up}, expected at most the {args.epochs} epochs of training")
    for kind, table in (("objective", OBJECTIVES), ("program", PROGRAMS)):
        own = table[getattr(args, kind)][1]
        for name in sorted({name for _, options in table.values() for name in options} - {"num_particles", "gradient"}):
            if name not in own and getattr(args, name) is not None:
                takers = [taker for taker, (_, options) in table.items() if name in options]
                parser.error(f"argument --{name.replace('_', '-')}: found one beside --{kind} {getattr(args, kind)}, "
                             f"expected --{kind} {' or '.join(takers)}")  # fmt: skip
    own = OBJECTIVES[args.objective][1]
    if args.gradient != "reparam" and "gradient" not in own:
        parser.error(f"argument --gradient: found {args.gradient}, expected reparam for --objective {args.objective}")
    return args


def load_data(config: dict[str, Any]) -> pyro_vae.data.Splits:
    name = config["data"]
    source = np.load(name, allow_pickle=False) if name.endswith(".npy") else name
    binarize = None if config["binarize"] == "none" else config["binarize"]
    return pyro_vae.data.load(source, config["data_root"], binarize, seed=config["seed"])


# What has been in every config.json; of what came later, the default is what there was before.
REQUIRED = ("data", "data_root", "binarize", "likelihood", "objective", "epochs", "batch_size", "lr", "seed", "device",
            "eval_particles", "kl_weight", "warm_up")  # fmt: skip


class ConfigParser(argparse.ArgumentParser):
    """Settings of a file, held to what the command line takes."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def read_config(folder: Path, argument: str) -> dict[str, Any]:
    """The settings of a run, each of the type and among the choices that the command line has for it."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: found no config.json in {folder}, expected a folder of train_vae.py")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"found {type(config).__name__}, expected the settings by name")
        parser = make_parser(ConfigParser)
        args = vars(parse(as_arguments(config, vars(parser.parse_args([]))), parser))
        options = *OBJECTIVES[args["objective"]][1], *PROGRAMS[args["program"]][1]
        for name in (*REQUIRED, *options):
            if name not in config:
                raise ValueError(f"found no {name!r}, expected one as in every run")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {str(error)[:300]}") from error
    return config | {name: args[name] for name in args if name in config}


def as_arguments(config: dict[str, Any], known: dict[str, Any]) -> list[str]:
    """The command line that stands for settings."""
    arguments = []
    for name, value in config.items():
        flag = f"--{name.replace('_', '-')}"
        if name not in known or value is None:
            continue
        if name == "batch_norm" and isinstance(value, bool):
            arguments += [flag] * value
        elif isinstance(value, list):
            groups = [",".join(map(str, item)) if isinstance(item, list) else str(item) for item in value]
            arguments += [flag, *groups]
        else:
            arguments.append(f"{flag}={value}")
    return arguments


def load_run(run: str) -> tuple[dict[str, Any], Any]:
    """The settings and the VAE of a run that is done."""
    return read_config(Path(run), "RUN"), pyro_vae.load(run)


def best_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: found cuda, but torch sees no CUDA device; expected cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def new_folder(data: str) -> Path:
    name = f"runs/{data}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (f"{name}{suffix}" for suffix in ("", *(f"-{count}" for count in range(2, 1000))))
    return next(Path(name) for name in names if not Path(name).exists())


def configure(args: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """Settings and folder: from the command line, or those of the run that is resumed."""
    if args.resume:
        folder = Path(args.resume)
        return read_config(folder, "--resume"), folder
    config = {name: value for name, value in vars(args).items() if name not in ("out", "resume")}
    if args.data_root:
        config["data_root"] = str(Path(args.data_root).resolve())  # --resume and evaluate.py may run elsewhere
    if args.data.endswith(".npy"):
        config["data"] = str(Path(args.data).resolve())
    folder = Path(args.out) if args.out else new_folder(Path(args.data).stem)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(
            f"--out: found files in {folder}, expected a new folder; --resume {folder} goes on with a run"
        )
    for name, default in (*OBJECTIVES[args.objective][1].items(), *PROGRAMS[args.program][1].items()):
        config[name] = default if config[name] is None else config[name]
    if config["likelihood"] is None:
        binary = args.binarize not in ("auto", "none") or (args.binarize == "auto" and args.data in BLACK_AND_WHITE)
        config["likelihood"] = "bernoulli" if binary else "gaussian"
    return config | {"pyro_vae": pyro_vae.__version__, "torch": torch.__version__}, folder


def build(config: dict[str, Any], splits: pyro_vae.data.Splits, resumed: Path | None = None) -> Any:
    torch.manual_seed(config["seed"])
    make, options = PROGRAMS[config.get("program", "vae")]  # runs of version 0.1.0 had no choice
    arguments = {name: config[name] for name in options} | {"likelihood": config["likelihood"]}
    if resumed is None:
        vae: Any = make(splits.data_shape, **arguments)
    else:
        tensors, _ = read_tensors(resumed / "last.safetensors")
        try:
            with BoundedAllocation(tensors.values()):
                vae = make(splits.data_shape, **arguments)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{resumed / 'config.json'}: {error}") from error
    if config["likelihood"] == "bernoulli" and make is not pyro_vae.ConvLadderVAE:
        vae.likelihood.start_at_mean(splits.train.mean())
    return vae


def draw(vae: Any, splits: pyro_vae.data.Splits, history: pyro_vae.History, folder: Path) -> None:
    """Write the pictures; data that are not images get the learning curve alone."""
    figures = {"learning_curve": plots.learning_curve(history.records)}
    images = len(splits.data_shape) == 2 or (len(splits.data_shape) == 3 and splits.data_shape[0] in (1, 3))
    if images:
        x = splits.test[:10]
        figures["reconstructions"] = plots.reconstructions(x, vae.reconstruct(x))
        figures["samples"] = plots.samples(vae.sample(100, mean=True))
    if len(vae.latents) > 1 and images:
        shown = range(1, len(vae.latents) + 1, math.ceil(len(vae.latents) / 6))  # a few of many layers
        figures["layer_samples"] = plots.layers({vae.latents[t - 1]: vae.sample(10, layer=t, mean=True) for t in shown})
        rows = {"x": x} | {vae.latents[t - 1]: vae.reconstruct(x, layer=t) for t in shown}
        figures["layer_reconstructions"] = plots.layers(rows)
    if isinstance(vae, pyro_vae.VAE) and vae.prior.latent_dim == 2:
        figures["latent_space"] = plots.latent_space(vae.encode(splits.test[:]), splits.test.labels)
        if images:
            z, coordinates = plots.latent_grid(20)
            with torch.no_grad():
                figures["manifold"] = plots.manifold(vae.likelihood(z.to(vae.prior.loc)).mean, coordinates)
    for name, figure in figures.items():
        with replacing(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=150)


def weighed(vae: Any, num_steps: int, config: dict[str, Any]) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Model and guide, their KL weighed as the settings say, an epoch being so many steps."""
    weight: float | Schedule = config["kl_weight"]
    if config["warm_up"]:
        weight = Linear(config["warm_up"] * num_steps, end=config["kl_weight"])
    elif weight == 1:
        return vae.model, vae.guide
    return pyro_vae.anneal_kl(vae.model, vae.guide, weight)


def train(vae: Any, splits: pyro_vae.data.Splits, config: dict[str, Any], folder: Path, resume: bool) -> Any:
    make, options = OBJECTIVES[config["objective"]]
    objective = make(**{name: config[name] for name in options})
    if resume:  # before a batch is run with it, which may take more memory than there is
        state = json.loads(read_tensors(folder / "last.safetensors")[1].get("run", "{}"))
        before = state["facts"]["objective"] if "facts" in state else None
        if before != repr(objective):
            raise ValueError(f"{folder / 'config.json'}: objective: found {objective}, expected {before} as before")
    model, guide = weighed(vae, math.ceil(len(splits.train) / config["batch_size"]), config)
    kl = "" if model is vae.model else f" under {model}"
    print(f"{len(splits.train)} training data {splits.data_shape}, {type(vae).__name__}, {objective}{kl}, "
          f"on {next(vae.parameters()).device}; results in {folder}", flush=True)  # fmt: skip
    if not resume:
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    try:
        return pyro_vae.fit(
            model, guide, splits, objective=objective, num_epochs=config["epochs"],
            batch_size=config["batch_size"], lr=lambda done: config["lr"] * 0.5 * (1 + math.cos(math.pi * done)),
            clip_norm=config.get("clip_norm"), seed=config["seed"], checkpoint=folder, resume=resume, **speed(config),
        )  # fmt: skip
    except (ValueError, TypeError, OSError):
        if not resume and not (folder / "last.safetensors").exists():  # it never began: leave nothing behind
            with suppress(OSError):
                (folder / "config.json").unlink()
                folder.rmdir()
        raise


def speed(config: dict[str, Any]) -> dict[str, Any]:
    """How to compute, for training and scoring; runs of before have no such settings."""
    return {"precision": config.get("precision", "highest"), "compile": COMPILE[config.get("compile", "auto")]}


def score(vae: Any, splits: pyro_vae.data.Splits, config: dict[str, Any]) -> dict[str, Any]:
    elbo = mean_bound(vae.model, vae.guide, splits.test, pyro_vae.ELBO(num_particles=10), seed=config["seed"])
    estimate = pyro_vae.log_likelihood(
        vae.model, vae.guide, splits.test, config["eval_particles"], seed=config["seed"], progress=True,
        **speed(config),
    )  # fmt: skip
    diagnosis = pyro_vae.diagnose(vae.model, vae.guide, splits.test[:1000], num_data_mi=100, seed=config["seed"])
    active = pyro_vae.active_units(vae.guide, splits.test)
    return {
        "test_elbo": elbo,
        "test_log_likelihood": estimate.mean(),
        "test_log_likelihood_error": estimate.mean_error(),
        "num_particles": config["eval_particles"],
        "khat_above_0.7": (estimate.khat > 0.7).double().mean().item(),
        "caveat": estimate.caveat(),
        "active_units": sum(active.values()),
        "units": sum(diagnosis.units.values()),
        "layers": {
            name: {"kl": diagnosis.kl[name], "active_units": active[name], "units": diagnosis.units[name]}
            for name in vae.latents
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        config, folder = configure(args)
        splits = load_data(config)
        begun = bool(args.resume) and (folder / "last.safetensors").is_file()
        if args.resume and not begun:  # killed after its first file
            print(f"the run in {folder} had not begun, and begins now", file=sys.stderr)
        vae = build(config, splits, folder if begun else None).to(best_device(config["device"]))
        history = train(vae, splits, config, folder, resume=begun)
        if history.interrupted:
            print(f"interrupted; python examples/train_vae.py --resume {folder} goes on", file=sys.stderr)
            return 130
        vae = pyro_vae.load(folder).to(best_device(config["device"]))  # the weights of the best epoch
        metrics = score(vae, splits, config)
        metrics["best_epoch"] = history.best["epoch"]
        metrics["training_seconds"] = round(sum(record["seconds"] for record in history.records), 3)
        write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        draw(vae, splits, history, folder)
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"train_vae.py: {error}", file=sys.stderr)
        return 2
    print("test ELBO            {test_elbo:9.2f} nats per datum".format(**metrics))
    print("test log-likelihood  {test_log_likelihood:9.2f} ± {test_log_likelihood_error:.2f}{mark} nats per datum "
          "({num_particles} importance samples, whose Monte Carlo error is the ±)"
          .format(mark=metrics["caveat"][:1], **metrics))  # fmt: skip
    if metrics["caveat"]:
        print(metrics["caveat"])
    print(f"active latent units  {metrics['active_units']:6d} of {metrics['units']}")
    if len(vae.latents) > 1:
        for name, layer in metrics["layers"].items():
            print("  {:<4} {active_units:4d} of {units:<4d} KL {kl:7.2f} nats".format(name, **layer))
    print(f"weights, metrics and pictures are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The options of a training run: one table, from which parsers and their help are made.

An option that only some programs or objectives take has a default for each of these, and is refused beside any other.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, get_args

from pyro_vae.commands.option import Option, widths
from pyro_vae.data.channels import Channels
from pyro_vae.nn.layers import Activation
from pyro_vae.objectives import (
    CIWAE,
    ELBO,
    IWAE,
    MIWAE,
    PIWAE,
    Objective,
    RenyiBound,
    ReweightedWakeSleep,
    WakeSleep,
)
from pyro_vae.objectives.gradients import Gradient
from pyro_vae.programs import HVAE, VAE, ConvLadderVAE, LadderVAE
from pyro_vae.programs.program import Program
from pyro_vae.runtime.precision import Precision

COMPILE: dict[str, Any] = {"auto": "auto", "yes": True, "no": False}
PROGRAMS: dict[str, Callable[..., Program]] = {
    "vae": VAE,
    "hvae": HVAE,
    "ladder": LadderVAE,
    "conv-ladder": ConvLadderVAE,
}
OBJECTIVES: dict[str, type[Objective]] = {
    "elbo": ELBO,
    "iwae": IWAE,
    "miwae": MIWAE,
    "piwae": PIWAE,
    "ciwae": CIWAE,
    "renyi": RenyiBound,
    "wake-sleep": WakeSleep,
    "reweighted-wake-sleep": ReweightedWakeSleep,
}
LIKELIHOODS = ("bernoulli", "gaussian", "real", "counts", "columns")
SLEEPING = ("wake-sleep", "reweighted-wake-sleep")  # these have gradients of their own, and take no --gradient
CHOOSERS = {"model": "program", "bound": "objective"}  # of a group: the option that decides who takes the others


# fmt: off
OPTIONS: dict[str, dict[str, Option]] = {
    "data": {
        "data": Option("digits", "digits, mnist, fashion_mnist, frey_faces, or data of your own: a folder of pictures "
                       "(PNG, JPEG), a table (.csv, .tsv, .parquet), or .npy, .npz, .h5ad", metavar="NAME|PATH"),
        "data_root": Option(None, "folder with the data files, or where to download them to", metavar="DIR",
                            unset="$PYRO_VAE_DATA, else a cache folder"),
        "binarize": Option("auto", "how grey pixels become black and white; auto: dynamic for the black and white "
                           "sets under bernoulli, none for others",
                           choices=("auto", "dynamic", "static", "threshold", "none")),
        "labels": Option(None, "of data of your own: the column of a table or of obs of an .h5ad file, or the array of "
                         "an .npz file, that holds their labels", metavar="NAME"),
        "key": Option(None, "the array of an .npz file, or the layer of an .h5ad file, that holds the data",
                      metavar="NAME"),
        "size": Option(None, "height and width, or one number, to which pictures of a folder are resized", int,
                       nargs="+", metavar="PIXELS"),
        "channel_order": Option("auto", "where the colours of an array of pictures are; auto refuses what looks as if "
                                "they were last", choices=get_args(Channels)),
    },
    "model": {
        "program": Option("vae", "one layer of latents, or a hierarchy of them", choices=PROGRAMS),
        "latent_dim": Option({"vae": 10}, "length of the latent z", int, least=1),
        "latent_dims": Option({"hvae": [20, 10], "ladder": [20, 10]}, "lengths of z1 (next to the data) to zT",
                              int, nargs="+", metavar="LENGTH"),
        "hidden_dims": Option({"vae": [200, 200], "hvae": [200, 200], "ladder": [200, 200]},
                              "hidden layers of the encoder, and reversed of the decoder; a hierarchy has these at "
                              "every layer, or with commas one by one: 200,200 100,100",
                              widths, nargs="*", metavar="WIDTH"),
        "activation": Option({"vae": "tanh", "hvae": "tanh", "ladder": "leaky_relu"}, "of the hidden layers",
                             choices=get_args(Activation)),
        "guide": Option({"hvae": "bottom-up"}, "order in which the guide draws the layers",
                        choices=("bottom-up", "top-down")),
        "batch_norm": Option({"ladder": False}, "normalise the hidden layers over the batch", bool),
        "num_layers": Option({"conv-ladder": [4, 6, 2]}, "latent layers of each level of images, each half as large as "
                             "the one before, the last a single pixel", int, nargs="+", metavar="COUNT"),
        "latent_channels": Option({"conv-ladder": [2, 4, 16]}, "channels of each level's latents",
                                  int, nargs="+", metavar="COUNT"),
        "channels": Option({"conv-ladder": [32, 64, 64]}, "channels of each level's features",
                           int, nargs="+", metavar="COUNT"),
        "num_blocks": Option({"conv-ladder": 1}, "residual blocks of each level on the way up", int, least=1),
        "likelihood": Option(None, "p(x|z): bernoulli for zeros and ones, gaussian for numbers in [0, 1], real "
                             "for standardised ones, counts for whole ones, columns for a table",
                             choices=LIKELIHOODS, unset="what suits the data"),
    },
    "bound": {
        "objective": Option("elbo", "what to maximise", choices=OBJECTIVES),
        "num_particles": Option(dict.fromkeys(OBJECTIVES, 5) | {"elbo": 1, "wake-sleep": 1}, "latents drawn per image",
                                int, least=1),
        "num_batches": Option({"miwae": 5, "piwae": 5}, "batches of particles", int, least=1),
        "alpha": Option({"renyi": 0.5}, "order of the Rényi divergence", float),
        "beta": Option({"ciwae": 0.5}, "share of the ELBO", float),
        "gradient": Option("reparam", "estimator of the guide's gradient; wake-sleep has its own",
                           choices=get_args(Gradient)),
        "free_bits": Option({"elbo": 0.0}, "floor under the latent's mean KL in nats", float),
        "kl_weight": Option(1.0, "weight of the KL in training; 4 makes a β-VAE; what is reported is never weighed",
                            float),
        "warm_up": Option(None, "raise that weight from 0 in a line, over so many epochs", int, metavar="EPOCHS",
                          unset="a quarter of them for ladder, which collapses without; else 0"),
    },
    "training": {
        "epochs": Option(200, "passes over the training data", int, least=1),
        "batch_size": Option(100, "images a step", int, least=1),
        "lr": Option(2e-3, "Adam's learning rate, falling to zero by a cosine", float),
        "clip_norm": Option(None, "largest norm of the gradient of the mean loss", float),
        "seed": Option(0, "same seed, same result", int),
        "device": Option("auto", "auto takes a GPU where there is one", choices=("auto", "cpu", "cuda")),
        "precision": Option("highest", "of products of float32 matrices; highest is exact to float32",
                            choices=get_args(Precision)),
        "compile": Option("auto", "compile the programs; auto does for long runs", choices=COMPILE),
    },
    "results": {
        "eval_particles": Option(1000, "importance samples per test image for log p(x)", int,
                                 least=2),  # an error bar takes two
        "out": Option(None, "folder for the results", metavar="DIR", unset="a new one under runs/"),
        "resume": Option(None, "go on with the run in this folder; its settings apply, and others are refused",
                         metavar="RUN"),
        "no_report": Option(False, "leave out report.html; pyro-vae report makes it later", bool),
    },
}
# fmt: on
SETTINGS = {name: option for group in OPTIONS.values() for name, option in group.items()}
del SETTINGS["out"], SETTINGS["resume"], SETTINGS["no_report"]  # where the settings are, and what is made of the run


def flag(name: str) -> str:
    """Return the name of an option as the command line has it."""
    return f"--{name.replace('_', '-')}"


def own_options(group: str, choice: str) -> dict[str, Any]:
    """Return the options that a program (of the group "model") or an objective ("bound") takes, with its defaults."""
    own = {name: option.defaults[choice] for name, option in OPTIONS[group].items() if choice in option.defaults}
    gradient = OPTIONS["bound"]["gradient"]
    return own | ({"gradient": gradient.default} if group == "bound" and choice not in SLEEPING else {})


def parse(
    argv: Sequence[str] | None = None,
    description: str | None = None,
    make: Callable[..., argparse.ArgumentParser] = argparse.ArgumentParser,
) -> argparse.Namespace:
    """Read the command line; ``given`` of the result holds the options that stand there."""
    parser = make(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    return completed(vars(parser.parse_args(argv)), parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser all options of a run, by group."""
    for title, group in OPTIONS.items():
        chooser = CHOOSERS.get(title)
        note = chooser and f"An option with a default for some {chooser}s is for these alone."
        arguments = parser.add_argument_group(title, note)
        for name, option in group.items():
            arguments.add_argument(flag(name), **option.keywords())


def completed(given: dict[str, Any], parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return all options, those that are not ``given`` with their defaults, checked; ``parser`` reports an error."""
    if any(isinstance(layer, list) for layer in given.get("hidden_dims", ())):
        given["hidden_dims"] = [layer if isinstance(layer, list) else [layer] for layer in given["hidden_dims"]]
    initial = {name: option.initial for group in OPTIONS.values() for name, option in group.items()}
    args = argparse.Namespace(**initial | given, given=given)
    if args.resume is None:  # else the settings of the run apply, which have been checked
        check(args, parser)
    return args


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse numbers that are too small and options that do not go together; fill in ``warm_up``."""
    if not -(2**63) <= args.seed < 2**63:
        parser.error(f"argument --seed: found {args.seed}, expected an integer of 64 bits")
    for name, option in SETTINGS.items():
        value = getattr(args, name)
        if option.least is not None and value is not None and value < option.least:
            parser.error(f"argument {flag(name)}: found {value}, expected {option.least} or more")
    if args.warm_up is None:
        args.warm_up = args.epochs // 4 if args.program == "ladder" else 0
    if not 0 <= args.warm_up <= args.epochs:
        parser.error(f"argument --warm-up: found {args.warm_up}, expected at most the {args.epochs} epochs of training")
    for group, chooser in CHOOSERS.items():
        choice = getattr(args, chooser)
        for name, option in OPTIONS[group].items():
            if option.defaults and choice not in option.defaults and getattr(args, name) is not None:
                parser.error(f"argument {flag(name)}: found one beside --{chooser} {choice}, "
                             f"expected --{chooser} {' or '.join(option.defaults)}")  # fmt: skip
    if args.gradient != "reparam" and args.objective in SLEEPING:
        parser.error(f"argument --gradient: found {args.gradient}, expected reparam for --objective {args.objective}")

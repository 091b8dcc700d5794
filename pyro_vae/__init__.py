"""Variational autoencoders as Pyro programs.

Pick or write a model and a guide. Every bound, estimate of log p(x) and diagnostic takes that pair:

    vae = pyro_vae.VAE(data_shape=(28, 28), latent_dim=50)
    pyro_vae.fit(vae.model, vae.guide, pyro_vae.data.load("mnist"), objective=pyro_vae.IWAE(num_particles=5))
    pyro_vae.log_likelihood(vae.model, vae.guide, x, num_particles=5000).mean()
"""

from pyro_vae import data, likelihoods, schedules
from pyro_vae.cells import Cells, CellVAE
from pyro_vae.diagnostics.activity import active_units
from pyro_vae.diagnostics.diagnosis import Diagnosis, diagnose
from pyro_vae.errors import ConcurrentRunError, ProgramError, RankError
from pyro_vae.evaluation.annealed_importance import ais
from pyro_vae.evaluation.bidirectional import Sandwich, sandwich
from pyro_vae.evaluation.comparison import Comparison, compare
from pyro_vae.evaluation.estimates import LogLikelihood
from pyro_vae.evaluation.evaluating import evaluate
from pyro_vae.evaluation.evaluations import Evaluation
from pyro_vae.evaluation.imputation import Imputation, impute
from pyro_vae.evaluation.likelihood import log_likelihood
from pyro_vae.evaluation.refinement import Refinement, refine
from pyro_vae.evaluation.scoring import Scorer, Scores, score
from pyro_vae.evaluation.thresholds import Threshold, threshold
from pyro_vae.flows import Flow
from pyro_vae.inference.annealing import anneal_kl
from pyro_vae.inference.global_means import at_global_means
from pyro_vae.inference.importance import log_weights
from pyro_vae.inference.missing import observed_only, pack
from pyro_vae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Gaussian,
    Heterogeneous,
    Laplace,
    NegativeBinomial,
    Nominal,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from pyro_vae.nn.codebook import Codebook
from pyro_vae.nn.images import ImageDecoder, ImageEncoder
from pyro_vae.nn.mlp import MLP, ConditionalMLP
from pyro_vae.objectives import (
    CIWAE,
    ELBO,
    IWAE,
    MIWAE,
    PIWAE,
    Objective,
    RenyiBound,
    ReweightedWakeSleep,
    SemiSupervised,
    WakeSleep,
)
from pyro_vae.posteriors import DiagonalNormal, FlowPosterior, FullNormal, LowRankNormal, MixturePosterior
from pyro_vae.priors import (
    AutoregressiveCodes,
    FlowPrior,
    GaussianMixture,
    IndependentCodes,
    LearnedNormal,
    StandardNormal,
    VampPrior,
)
from pyro_vae.programs import HVAE, M2, VAE, VQVAE, ConditionalVAE, ConvLadderVAE, LadderVAE, perplexity, wrap
from pyro_vae.programs.walks import Traversal, interpolate, traverse
from pyro_vae.sharing import export, from_hub, model_card, push_to_hub
from pyro_vae.tables.table import Table
from pyro_vae.training.checkpoint import load, save
from pyro_vae.training.fitting import fit
from pyro_vae.training.history import History

__version__ = "0.1.0"

__all__ = [
    "CIWAE",
    "ELBO",
    "HVAE",
    "IWAE",
    "M2",
    "MIWAE",
    "MLP",
    "PIWAE",
    "VAE",
    "VQVAE",
    "AutoregressiveCodes",
    "Bernoulli",
    "Binomial",
    "Categorical",
    "CellVAE",
    "Cells",
    "Codebook",
    "Comparison",
    "ConcurrentRunError",
    "ConditionalMLP",
    "ConditionalVAE",
    "ContinuousBernoulli",
    "ConvLadderVAE",
    "Diagnosis",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Evaluation",
    "Flow",
    "FlowPosterior",
    "FlowPrior",
    "FullNormal",
    "Gaussian",
    "GaussianMixture",
    "Heterogeneous",
    "History",
    "ImageDecoder",
    "ImageEncoder",
    "Imputation",
    "IndependentCodes",
    "LadderVAE",
    "Laplace",
    "LearnedNormal",
    "LogLikelihood",
    "LowRankNormal",
    "MixturePosterior",
    "NegativeBinomial",
    "Nominal",
    "Objective",
    "Poisson",
    "ProgramError",
    "RankError",
    "Refinement",
    "RenyiBound",
    "ReweightedWakeSleep",
    "Sandwich",
    "Scorer",
    "Scores",
    "SemiSupervised",
    "StandardNormal",
    "StudentT",
    "Table",
    "Threshold",
    "Traversal",
    "VampPrior",
    "WakeSleep",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "active_units",
    "ais",
    "anneal_kl",
    "at_global_means",
    "compare",
    "data",
    "diagnose",
    "evaluate",
    "export",
    "fit",
    "from_hub",
    "impute",
    "interpolate",
    "likelihoods",
    "load",
    "log_likelihood",
    "log_weights",
    "model_card",
    "observed_only",
    "pack",
    "perplexity",
    "push_to_hub",
    "refine",
    "sandwich",
    "save",
    "schedules",
    "score",
    "threshold",
    "traverse",
    "wrap",
]

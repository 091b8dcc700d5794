"""Evaluation: log p(x) with its errors, bounds over data, refined posteriors, missing entries filled in."""

from pyro_vae.evaluation.annealed_importance import ais
from pyro_vae.evaluation.bidirectional import Sandwich, sandwich
from pyro_vae.evaluation.bounds import mean_bound, mean_estimate, summed_bounds
from pyro_vae.evaluation.comparison import Comparison, compare
from pyro_vae.evaluation.estimates import LogLikelihood
from pyro_vae.evaluation.evaluating import evaluate
from pyro_vae.evaluation.evaluations import Evaluation
from pyro_vae.evaluation.imputation import Imputation, impute
from pyro_vae.evaluation.likelihood import log_likelihood
from pyro_vae.evaluation.refinement import RefinedGuide, Refinement, refine
from pyro_vae.evaluation.scoring import Scorer, Scores, score
from pyro_vae.evaluation.thresholds import Threshold, threshold

__all__ = [
    "Comparison",
    "Evaluation",
    "Imputation",
    "LogLikelihood",
    "RefinedGuide",
    "Refinement",
    "Sandwich",
    "Scorer",
    "Scores",
    "Threshold",
    "ais",
    "compare",
    "evaluate",
    "impute",
    "log_likelihood",
    "mean_bound",
    "mean_estimate",
    "refine",
    "sandwich",
    "score",
    "summed_bounds",
    "threshold",
]

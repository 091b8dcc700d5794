"""The estimator of scikit-learn: its own checks, pipelines and searches, and densities held against the package's."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils import estimator_checks

import pyro_vae
from pyro_vae.estimator import VAEEstimator

SMALL = {"max_iter": 2, "hidden_layer_sizes": (8,), "num_particles": 5, "random_state": 0}
X = np.random.default_rng(0).normal(size=(60, 4)) @ np.array(
    [[3.0, 0, 0, 0], [2, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 4, 0.1]]
)


def every_check():
    """The checks of scikit-learn, as pairs of an estimator and a function."""
    estimator = VAEEstimator(**SMALL | {"batch_size": 200})
    if hasattr(estimator_checks, "estimator_checks_generator"):
        return list(estimator_checks.estimator_checks_generator(estimator))
    return list(estimator_checks.check_estimator(estimator, generate_only=True))  # before scikit-learn 1.6


CHECKS = every_check()
NAMES = [check.func.__name__ for _, check in CHECKS]


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=NAMES)
def test_it_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_these_checks_are_those_of_outlier_detectors_and_transformers():
    assert len(NAMES) > 40 and {"check_outliers_train", "check_transformer_general"} <= set(NAMES)


@pytest.fixture(scope="module")
def fitted():
    return VAEEstimator(
        2, hidden_layer_sizes=(16,), max_iter=150, batch_size=20, random_state=0, num_particles=400
    ).fit(X)


def test_the_density_is_that_of_the_package_within_its_error(fitted):
    y = (X - X.mean(0)) / X.std(0)
    vae = fitted.vae_
    expected = pyro_vae.log_likelihood(vae.model, vae.guide, torch.tensor(y), num_particles=20_000, seed=0)
    few = pyro_vae.log_likelihood(vae.model, vae.guide, torch.tensor(y), num_particles=400, seed=1)
    difference = fitted.score_samples(X) - (expected.values.numpy() - np.log(X.std(0)).sum())
    assert (np.abs(difference) < 5 * few.std_error.numpy() + 1e-3).all()
    assert fitted.score(X) == fitted.score_samples(X).mean()
    assert np.abs(difference).max() > 0


def test_the_density_has_the_units_of_the_data(fitted):
    scaled = clone(fitted).fit(1000 * X + 5)
    np.testing.assert_allclose(scaled.transform(1000 * X + 5), fitted.transform(X), rtol=1e-6, atol=1e-6)
    expected = fitted.score_samples(X) - 4 * math.log(1000)
    np.testing.assert_allclose(scaled.score_samples(1000 * X + 5), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        scaled.inverse_transform(np.ones((2, 2))), 1000 * fitted.inverse_transform(np.ones((2, 2))) + 5, rtol=1e-6
    )


def test_the_score_of_a_datum_depends_on_that_datum_alone(fitted):
    whole = fitted.score_samples(X)
    one_by_one = np.concatenate([fitted.score_samples(x[None]) for x in X])
    np.testing.assert_allclose(whole, one_by_one, rtol=1e-12, atol=1e-12)
    assert np.array_equal(whole, fitted.score_samples(X))


def test_data_beyond_one_chunk_are_scored_alike(fitted, monkeypatch):
    whole = fitted.score_samples(X)
    monkeypatch.setattr("pyro_vae.estimator._MOST_DRAWS", 7 * 400)
    np.testing.assert_allclose(fitted.score_samples(X), whole, rtol=1e-12, atol=1e-12)


def test_outliers_are_found(fitted):
    assert (fitted.predict(X) == -1).sum() == 6  # contamination is a tenth
    assert fitted.predict(X[:1] + 100).tolist() == [-1]
    assert np.array_equal(fitted.decision_function(X) < 0, fitted.predict(X) == -1)


def test_latents_go_there_and_back(fitted):
    reconstruction = fitted.inverse_transform(fitted.transform(X))
    assert ((reconstruction - X) ** 2).sum() < 0.7 * ((X - X.mean(0)) ** 2).sum()
    assert fitted.get_feature_names_out().tolist() == ["vaeestimator0", "vaeestimator1"]
    with pytest.raises(ValueError, match="^X: found 4 columns, expected 2, one for each component"):
        fitted.inverse_transform(X)


def test_samples_have_the_moments_of_the_model(fitted):
    draws = fitted.sample(4000, random_state=0)
    assert draws.shape == (4000, 4)
    np.testing.assert_allclose(draws.mean(0), X.mean(0), atol=0.5 * X.std(0).max())
    assert np.array_equal(draws, fitted.sample(4000, random_state=0))


def test_it_is_pickled_and_copied_with_what_it_learnt(fitted):
    for other in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert np.array_equal(other.score_samples(X), fitted.score_samples(X))
        assert np.array_equal(other.transform(X), fitted.transform(X))


def test_pipelines_and_searches_take_it():
    search = GridSearchCV(
        make_pipeline(MinMaxScaler(), VAEEstimator(**SMALL)),
        {"vaeestimator__n_components": np.array([1, 2]), "vaeestimator__learning_rate": [1e-3, 1e-2]},
        cv=2,
        error_score="raise",
    ).fit(X)
    assert search.best_params_["vaeestimator__learning_rate"] == 1e-2  # of two epochs
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.transform(X).shape == (60, search.best_params_["vaeestimator__n_components"])
    assert search.score(X) == pytest.approx(search.score_samples(X).mean())


def test_a_column_that_never_changes_is_taken():
    constant = np.column_stack([X, np.full(60, 7.0)])
    fitted = VAEEstimator(**SMALL).fit(constant)
    assert np.isfinite(fitted.score_samples(constant)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_components": 0}, "n_components: found 0, expected a positive integer"),
        ({"contamination": 0.6}, r"contamination: found 0.6, expected a number in \(0, 0.5\]"),
        ({"hidden_layer_sizes": 3.5}, "hidden_layer_sizes: found 3.5, expected positive integers"),
        ({"learning_rate": "fast"}, "learning_rate: found 'fast', expected a positive number"),
    ],
)
def test_arguments_are_refused_when_it_is_fitted(arguments, message):
    with pytest.raises(ValueError, match=message):
        VAEEstimator(**arguments).fit(X)

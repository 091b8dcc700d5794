"""Trackers log each epoch once, the settings once, and how a run ended, also where it is resumed."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest
import torch

import pyro_vae
from pyro_vae import training
from tests.support.programs import bits, vae
from tests.support.services import MLflow, Trackio, WandB

X = bits(24)
NAMES = ("tensorboard", "wandb", "mlflow", "trackio")


def fit(*callbacks, **options):
    program = vae()
    options = {"num_epochs": 4, "batch_size": 6, "seed": 0, "progress": False} | options
    return pyro_vae.fit(program.model, program.guide, X, callbacks=callbacks, **options)


def stop(record):
    if record["epoch"] == 2:
        os.kill(os.getpid(), signal.SIGINT)


def fail(record):
    raise ZeroDivisionError


class Service:
    """A service under one interface: a new tracker, and what its runs hold."""

    def __init__(self, name, monkeypatch, folder):
        self.name, self.folder = name, folder
        if name == "tensorboard":
            pytest.importorskip("tensorboard")
            return
        self.library = {"wandb": WandB, "mlflow": MLflow, "trackio": Trackio}[name]()
        monkeypatch.setitem(sys.modules, name, self.library)
        if name == "mlflow":
            monkeypatch.setitem(sys.modules, "mlflow.entities", self.library.entities)

    def tracker(self, **options):
        place = self.folder / "events" if self.name == "tensorboard" else "place"
        return getattr(training, self.name)(place, **options)

    def runs(self):
        """Of each run the values of ``train_bound`` by epoch, and its settings."""
        if self.name == "tensorboard":
            return [self._events()]
        if self.name == "mlflow":
            return [
                ([(m.step, m.value) for m in run.metrics if m.key == "train_bound"], run.data.params)
                for run in self.library.runs.values()
            ]
        return [
            ([(step, values["train_bound"]) for step, values in run.history], run.config)
            for run in self.library.runs.values()
        ]

    def _events(self):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(self.folder / "events")).Reload()
        (tag,) = events.Tags()["tensors"]
        (text,) = events.Tensors(tag)  # the settings, once
        config = json.loads(text.tensor_proto.string_val[0].decode().strip("`\n"))
        return [(event.step, event.value) for event in events.Scalars("train_bound")], config

    def ends(self):
        """How the runs ended, in the words of the service; ``None`` where it has none."""
        if self.name == "wandb":
            return [run.ends[-1] for run in self.library.runs.values()]
        if self.name == "mlflow":
            return [run.info.status for run in self.library.runs.values()]
        if self.name == "trackio":
            assert all(run.is_over for run in self.library.runs.values()) and self.library.current is None
        return None


@pytest.fixture(params=NAMES)
def service(request, monkeypatch, tmp_path):
    return Service(request.param, monkeypatch, tmp_path)


def bounds(history):
    return [(record["epoch"], pytest.approx(record["train_bound"], rel=1e-6)) for record in history.records]


WHOLE, STOPPED, FAILED = [0, "FINISHED"], [130, "KILLED"], [1, "FAILED"]


def test_a_run_is_logged_once_with_its_settings(service):
    history = fit(service.tracker(config={"note": {"by": "me"}}), objective=pyro_vae.IWAE(3))
    ((logged, config),) = service.runs()
    assert logged == bounds(history)
    expected = {"program": "VAE", "objective": "IWAE(num_particles=3)", "num_epochs": 4, "batch_size": 6, "seed": 0}
    expected |= {"lr": 1e-3, "optimizer": "Adam", "num_data": 24, "torch": torch.__version__.partition("+")[0]}
    config = {name: str(value).partition("+")[0] for name, value in config.items()}
    assert config == config | {name: str(value) for name, value in expected.items()}
    assert config.get("note.by") == "me" or config["note"] == "{'by': 'me'}"
    assert service.ends() is None or service.ends()[0] in WHOLE


def test_a_resumed_run_goes_on_without_duplicates(service, tmp_path):
    first = fit(service.tracker(), stop, checkpoint=tmp_path / "run")
    assert first.interrupted and (service.ends() is None or service.ends()[0] in STOPPED)
    history = fit(service.tracker(), checkpoint=tmp_path / "run", resume=True)
    ((logged, _),) = service.runs()
    assert len(logged) == 4 and logged == bounds(history)
    longer = fit(service.tracker(), checkpoint=tmp_path / "run", resume=True, num_epochs=5)
    ((logged, _),) = service.runs()
    assert logged == bounds(longer)
    assert service.ends() is None or service.ends()[0] in WHOLE


def test_epochs_that_were_not_logged_are_logged_by_the_resumed_run(service, tmp_path):
    fit(stop, checkpoint=tmp_path / "run")  # without a tracker
    history = fit(service.tracker(), checkpoint=tmp_path / "run", resume=True)
    ((logged, _),) = service.runs()
    assert logged == bounds(history)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])  # the others are told in which step a value belongs
def test_a_process_that_dies_before_it_wrote_down_what_it_logged_logs_nothing_twice(name, monkeypatch, tmp_path):
    service = Service(name, monkeypatch, tmp_path)
    fit(service.tracker(), checkpoint=tmp_path / "run", num_epochs=3)
    known = json.loads((tmp_path / "run/trackers.json").read_text())
    (entry,) = known.values()
    assert entry["epoch"] == 3
    entry["epoch"] = 2
    (tmp_path / "run/trackers.json").write_text(json.dumps(known))
    history = fit(service.tracker(), checkpoint=tmp_path / "run", resume=True)
    ((logged, _),) = service.runs()
    assert logged == bounds(history)


def test_an_error_closes_the_run_too(service, tmp_path):
    with pytest.raises(ZeroDivisionError):
        fit(service.tracker(), fail)
    ((logged, _),) = service.runs()
    assert len(logged) == 1 and (service.ends() is None or service.ends()[0] in FAILED)


def test_a_second_ctrl_c_closes_the_run_too(service):
    def twice(record):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(service.tracker(), twice)
    assert service.ends() is None or service.ends()[0] in FAILED


def test_a_tracker_that_cannot_start_closes_what_it_opened(service, monkeypatch):
    tracker, good = service.tracker(), bounds(fit(service.tracker()))
    monkeypatch.setattr(tracker, "_remember", fail)
    with pytest.raises(ZeroDivisionError), pytest.warns() if service.name == "tensorboard" else _no_warning():
        fit(tracker)
    if service.name != "tensorboard":
        assert [len(logged) for logged, _ in service.runs()] == [len(good), 0]
    assert service.ends() is None or (service.ends()[0] in WHOLE and service.ends()[1] in FAILED)


class _no_warning:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_several_trackers_and_functions_work_together(monkeypatch, tmp_path):
    services = [Service(name, monkeypatch, tmp_path) for name in NAMES]
    seen = []
    history = fit(*(service.tracker() for service in services), seen.append, stop, checkpoint=tmp_path / "run")
    assert seen == history.records
    history = fit(*(service.tracker() for service in services), checkpoint=tmp_path / "run", resume=True)
    for service in services:
        ((logged, _),) = service.runs()
        assert logged == bounds(history)
    assert len(json.loads((tmp_path / "run/trackers.json").read_text())) == 4


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_run_of_the_users_is_used_and_left_open(name, monkeypatch, tmp_path):
    service = Service(name, monkeypatch, tmp_path)
    if name == "wandb":
        mine = service.library.init("mine")
        mine.log({"train_bound": 1.0})
    else:
        mine = service.library.under_way = service.library.MlflowClient().create_run("0")
    history = fit(service.tracker(), checkpoint=tmp_path / "run", num_epochs=2)
    ((logged, config),) = service.runs()
    assert [value for _, value in logged][-2:] == [record["train_bound"] for record in history.records]
    assert config["objective"] == "ELBO(num_particles=1)"
    assert (mine.ends if name == "wandb" else mine.info.status) in ([None], "RUNNING")
    if name == "mlflow":  # another run of the user's is given all epochs
        other = service.library.under_way = service.library.MlflowClient().create_run("0")
        fit(service.tracker(), checkpoint=tmp_path / "run", resume=True)
        assert [metric.step for metric in other.metrics if metric.key == "train_bound"] == [1, 2, 3, 4]


def test_a_second_run_in_the_folder_of_events_is_told(tmp_path):
    pytest.importorskip("tensorboard")
    fit(training.tensorboard(tmp_path), num_epochs=1)
    with pytest.warns(UserWarning, match=r"^tensorboard: found events of another run in .*, expected an empty folder"):
        fit(training.tensorboard(tmp_path), num_epochs=1)


def test_a_tracker_by_itself_logs_what_it_is_called_with(monkeypatch, tmp_path):
    service = Service("trackio", monkeypatch, tmp_path)
    service.tracker(name="by hand")({"epoch": 7, "step": 70, "train_bound": -1.0, "valid_bound": None})
    assert service.library.runs["by hand"].history == [(7, {"train_step": 70, "train_bound": -1.0})]


def test_two_trackers_of_one_place_are_refused(monkeypatch, tmp_path):
    service = Service("mlflow", monkeypatch, tmp_path)
    with pytest.raises(ValueError, match="^callbacks: found 2 that write to 'mlflow place', expected one$"):
        fit(service.tracker(), service.tracker())


@pytest.mark.parametrize("text", ["{", "[1]", '{"trackio place": {"run": 3, "epoch": 1}}', '{"a": {"run": "b"}}'])
def test_a_file_that_is_not_ours_is_named(text, monkeypatch, tmp_path):
    service = Service("trackio", monkeypatch, tmp_path)
    fit(service.tracker(), num_epochs=1, checkpoint=tmp_path / "run")
    (tmp_path / "run/trackers.json").write_text(text)
    with pytest.raises(ValueError, match=r"trackers\.json: found .*, expected the runs of trackers"):
        fit(service.tracker(), checkpoint=tmp_path / "run", resume=True)

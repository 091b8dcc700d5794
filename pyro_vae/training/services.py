"""Trackers of experiments: TensorBoard, Weights & Biases, MLflow and trackio.

Each function returns a callback for :func:`pyro_vae.fit`. It logs the settings once, the numbers of each record under
their names in the history, with the epoch as the step, and how the run ended. A run that is resumed from its checkpoint
goes on in the same place. The libraries are imported when a tracker is made, and none is needed for the package.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae.runtime.arguments import PathLike, checked
from pyro_vae.runtime.optional import imported
from pyro_vae.training.callbacks import Callback
from pyro_vae.training.trackers import Tracker, flat

__all__ = ["mlflow", "tensorboard", "trackio", "wandb"]

_MOST_PARAMS = 100  # that MLflow takes at once
_STOPPED = 130  # what a shell gives after Ctrl-C


@checked
def tensorboard(folder: PathLike, *, config: Mapping[str, Any] | None = None) -> Callback:
    """Return a callback that logs to TensorBoard, in event files in a folder.

    Parameters
    ----------
    folder
        That of the run, such as ``"runs/digits/events"``. A second run in one folder is drawn over the first, and a
        warning says so.
    config
        Settings to log beside those of ``fit``.

    Raises
    ------
    ImportError
        If the package ``tensorboard`` is not installed.
    """
    return _TensorBoard(Path(folder), config)


class _TensorBoard(Tracker):
    def __init__(self, folder: Path, config: Mapping[str, Any] | None) -> None:
        super().__init__(f"tensorboard {folder.resolve()}", config)
        library = imported("torch.utils.tensorboard", "tensorboard", "tensorboard", "pip install tensorboard")
        self._folder_of_events, self._open_writer = folder, library.SummaryWriter
        self._writer: Any = None

    def open(self, config: dict[str, Any], before: str | None, epoch: int) -> tuple[str, int]:
        folder, self._writer = self._folder_of_events, None
        if before is None and any(folder.glob("events.out.tfevents.*")):
            warnings.warn(
                f"tensorboard: found events of another run in {folder}, expected an empty folder: TensorBoard draws "
                "both as one run",
                UserWarning,
                stacklevel=5,
            )
        # what the files have of later epochs, logged by a process that died before it wrote that down, is left out
        self._writer = self._open_writer(str(folder), purge_step=None if before is None else epoch + 1)
        if before is None:
            self._writer.add_text("config", f"```\n{json.dumps(flat(config), indent=2, default=str)}\n```")
        return str(folder), epoch

    def log(self, values: dict[str, float], epoch: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self, is_interrupted: bool, error: BaseException | None) -> None:
        if self._writer is not None:
            self._writer.close()


@checked
def wandb(
    project: str | None = None, *, name: str | None = None, config: Mapping[str, Any] | None = None, **options: Any
) -> Callback:
    """Return a callback that logs to Weights & Biases.

    A run that you began by ``wandb.init`` is used as it is, and left open. Otherwise one is begun, and ends with exit
    code 0, 130 after Ctrl-C, or 1 after an error.

    Parameters
    ----------
    project, name
        Of the run; the library chooses by default.
    config
        Settings to log beside those of ``fit``.
    options
        Further arguments of ``wandb.init``, such as ``entity``, ``tags``, ``dir`` or ``mode="offline"``.

    Raises
    ------
    ImportError
        If the package ``wandb`` is not installed.
    """
    return _WandB({"project": project, "name": name} | options, config)


class _WandB(Tracker):
    def __init__(self, options: dict[str, Any], config: Mapping[str, Any] | None) -> None:
        super().__init__(f"wandb {options['project'] or ''}".strip(), config)
        self._library = imported("wandb", "wandb", "wandb", "pip install wandb")
        self._options, self._is_own = options, True
        self._log_to: Any = None

    def open(self, config: dict[str, Any], before: str | None, epoch: int) -> tuple[str, int]:
        self._log_to, self._is_own = self._library.run, self._library.run is None
        if self._is_own:
            known = {} if before is None else {"id": before, "resume": "allow"}
            self._log_to = self._library.init(**self._options | known, config=config, allow_val_change=True)
        else:
            self._log_to.config.update(config, allow_val_change=True)
        return self._log_to.id, epoch if self._log_to.id == before else 0

    def log(self, values: dict[str, float], epoch: int) -> None:
        step = {"step": epoch} if self._is_own else {}  # of a run that is yours the steps are, too
        self._log_to.log(values | {"epoch": epoch}, **step)

    def close(self, is_interrupted: bool, error: BaseException | None) -> None:
        if self._is_own and self._log_to is not None:
            self._log_to.finish(exit_code=1 if error is not None else _STOPPED if is_interrupted else 0)


@checked
def mlflow(
    experiment: str = "pyro_vae",
    *,
    name: str | None = None,
    tracking_uri: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Callback:
    """Return a callback that logs to MLflow.

    A run that you began by ``mlflow.start_run`` is used as it is, and left open. Otherwise one is begun, and ends as
    ``FINISHED``, ``KILLED`` after Ctrl-C, or ``FAILED`` after an error. No setting of the process is changed.

    Parameters
    ----------
    experiment, name
        Of the run. The experiment is made if there is none of that name.
    tracking_uri
        Where to log; by default where ``mlflow`` is set to.
    config
        Settings to log beside those of ``fit``. MLflow keeps the first value of each, also of a run that is resumed.

    Raises
    ------
    ImportError
        If the package ``mlflow`` is not installed.
    """
    return _MLflow(experiment, name, tracking_uri, config)


class _MLflow(Tracker):
    def __init__(
        self, experiment: str, name: str | None, tracking_uri: str | None, config: Mapping[str, Any] | None
    ) -> None:  # fmt: skip
        super().__init__(f"mlflow {experiment}", config)
        self._library = imported("mlflow", "mlflow", "mlflow", "pip install mlflow")
        self._entities = imported("mlflow.entities", "mlflow", "mlflow", "pip install mlflow")
        self._experiment, self._name, self._uri = experiment, name, tracking_uri
        self._client: Any = None
        self._log_to: Any = None
        self._is_own = True

    def open(self, config: dict[str, Any], before: str | None, epoch: int) -> tuple[str, int]:
        active, self._log_to = self._library.active_run(), None
        self._is_own = active is None
        self._client = self._library.MlflowClient(tracking_uri=self._uri if self._is_own else None)
        if active is not None:
            self._log_to = active.info.run_id
        elif before is None:
            found = self._client.get_experiment_by_name(self._experiment)
            place = self._client.create_experiment(self._experiment) if found is None else found.experiment_id
            self._log_to = self._client.create_run(place, run_name=self._name).info.run_id
        else:
            self._log_to = before
            self._client.update_run(before, status="RUNNING")
        known = self._client.get_run(self._log_to).data.params
        params = [self._entities.Param(name, str(value)) for name, value in flat(config).items() if name not in known]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._log_to, params=params[start : start + _MOST_PARAMS])
        steps = [metric.step for metric in self._client.get_metric_history(self._log_to, "train_bound")]
        return self._log_to, max(steps, default=0) if self._log_to == before else 0

    def log(self, values: dict[str, float], epoch: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, value, now, epoch) for name, value in values.items()]
        self._client.log_batch(self._log_to, metrics=metrics)

    def close(self, is_interrupted: bool, error: BaseException | None) -> None:
        if self._is_own and self._log_to is not None:
            status = "FAILED" if error is not None else "KILLED" if is_interrupted else "FINISHED"
            self._client.set_terminated(self._log_to, status=status)


@checked
def trackio(
    project: str = "pyro_vae", *, name: str | None = None, config: Mapping[str, Any] | None = None, **options: Any
) -> Callback:
    """Return a callback that logs to trackio, which ends a run of its own that is under way.

    The number of steps taken is ``train_step`` there.

    Parameters
    ----------
    project, name
        Of the run; trackio makes up a name by default.
    config
        Settings to log beside those of ``fit``.
    options
        Further arguments of ``trackio.init``, such as ``space_id``.

    Raises
    ------
    ImportError
        If the package ``trackio`` is not installed.
    """
    return _Trackio({"project": project, "name": name} | options, config)


class _Trackio(Tracker):
    def __init__(self, options: dict[str, Any], config: Mapping[str, Any] | None) -> None:
        super().__init__(f"trackio {options['project']}", config)
        self._library = imported("trackio", "trackio", "trackio", "pip install trackio")
        self._options = options
        self._log_to: Any = None

    def open(self, config: dict[str, Any], before: str | None, epoch: int) -> tuple[str, int]:
        known = {} if before is None else {"name": before, "resume": "allow"}
        self._log_to = None
        self._log_to = self._library.init(**self._options | known, config=config)
        return self._log_to.name, epoch

    def log(self, values: dict[str, float], epoch: int) -> None:
        names = {"step": "train_step"}  # trackio keeps the other name for itself
        self._log_to.log({names.get(name, name): value for name, value in values.items()}, step=epoch)

    def close(self, is_interrupted: bool, error: BaseException | None) -> None:
        if self._log_to is not None:
            self._library.finish()  # which, unlike the run's own, forgets it too

"""Stand-ins for wandb, mlflow and trackio: what the trackers call of them, by their signatures, kept in memory.

They refuse what the libraries refuse: another value of a parameter in MLflow, a run that is over, a name of trackio's
own. ``SIGNATURES`` names the functions, which ``test_trackers.py`` compares with the libraries where there are any.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

SIGNATURES = {
    "wandb": ["init", "Run.log", "Run.finish", "Run.config.update"],
    "mlflow": [
        "MlflowClient.__init__", "MlflowClient.get_experiment_by_name", "MlflowClient.create_experiment",
        "MlflowClient.create_run", "MlflowClient.update_run", "MlflowClient.get_run", "MlflowClient.log_batch",
        "MlflowClient.get_metric_history", "MlflowClient.set_terminated", "active_run",
        "entities.Metric.__init__", "entities.Param.__init__",
    ],
    "trackio": ["init", "Run.log", "finish"],
}  # fmt: skip


class Config(dict):
    """The settings of a run of wandb, which it does not let a run change unless it is told so."""

    def update(self, d: dict[str, Any], allow_val_change: bool | None = None) -> None:  # type: ignore[override]
        changed = [name for name, value in d.items() if name in self and self[name] != value]
        assert allow_val_change or not changed, changed
        super().update(d)


class WandB:
    """The module ``wandb``: runs by their ids, each with its history of ``(step, values)``."""

    def __init__(self) -> None:
        self.run: Any = None
        self.runs: dict[str, Any] = {}
        self.Run = type("Run", (), {"config": Config, "log": self._log, "finish": self._finish})

    def init(
        self, project: str | None = None, id: str | None = None, name: str | None = None,
        config: dict[str, Any] | None = None, allow_val_change: bool | None = None, mode: str | None = None,
        resume: str | None = None,
    ) -> Any:  # fmt: skip
        assert self.run is None, "a run is under way"
        assert id is None or (resume == "allow" and id in self.runs), id
        id = f"id{len(self.runs)}" if id is None else id
        run = self.runs.setdefault(
            id, SimpleNamespace(id=id, config=Config(), history=[], ends=[], project=project, name=name, mode=mode)
        )
        run.config.update(config or {}, allow_val_change)
        run.ends.append(None)  # under way
        run.log = lambda *args, **options: self._log(run, *args, **options)
        run.finish = lambda *args, **options: self._finish(run, *args, **options)
        self.run = run
        return run

    @staticmethod
    def _log(self: Any, data: dict[str, Any], step: int | None = None) -> None:
        assert self.ends[-1] is None, "the run is over"
        step = len(self.history) if step is None else step
        assert not self.history or step > self.history[-1][0], "wandb leaves out what comes too late"
        self.history.append((step, data))

    def _finish(self, run: Any, exit_code: int | None = None) -> None:
        run.ends[-1] = exit_code
        self.run = None


class MLflow:
    """The module ``mlflow``, its module ``entities`` and its client, over one store."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, Any] = {}
        self.under_way: Any = None
        self.entities = SimpleNamespace(Metric=Metric, Param=Param)
        store = self

        class MlflowClient(Client):
            def __init__(self, tracking_uri: str | None = None) -> None:
                self.store, self.uri = store, tracking_uri

        self.MlflowClient = MlflowClient

    def active_run(self) -> Any:
        return self.under_way


class Metric:
    def __init__(self, key: str, value: float, timestamp: int, step: int) -> None:
        assert isinstance(timestamp, int) and isinstance(step, int)
        self.key, self.value, self.step = key, value, step


class Param:
    def __init__(self, key: str, value: str) -> None:
        assert isinstance(value, str)
        self.key, self.value = key, value


class Client:
    store: MLflow

    def get_experiment_by_name(self, name: str) -> Any:
        found = self.store.experiments.get(name)
        return None if found is None else SimpleNamespace(experiment_id=found)

    def create_experiment(self, name: str) -> str:
        assert name not in self.store.experiments
        return self.store.experiments.setdefault(name, str(len(self.store.experiments)))

    def create_run(self, experiment_id: str, run_name: str | None = None) -> Any:
        run = SimpleNamespace(
            info=SimpleNamespace(run_id=f"run{len(self.store.runs)}", status="RUNNING"),
            data=SimpleNamespace(params={}),
            metrics=[],
            experiment=experiment_id,
            name=run_name,
        )
        self.store.runs[run.info.run_id] = run
        return run

    def update_run(self, run_id: str, status: str | None = None) -> None:
        self.store.runs[run_id].info.status = status

    def get_run(self, run_id: str) -> Any:
        return self.store.runs[run_id]

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        run = self.store.runs[run_id]
        assert run.info.status == "RUNNING" and len(params) <= 100 and len(metrics) <= 1000
        for param in params:
            assert run.data.params.setdefault(param.key, param.value) == param.value, "a parameter cannot be changed"
        run.metrics += metrics

    def get_metric_history(self, run_id: str, key: str) -> list[Metric]:
        return [metric for metric in self.store.runs[run_id].metrics if metric.key == key]

    def set_terminated(self, run_id: str, status: str | None = None) -> None:
        self.store.runs[run_id].info.status = status


class Trackio:
    """The module ``trackio``: runs by their names."""

    def __init__(self) -> None:
        self.runs: dict[str, Any] = {}
        self.current: Any = None
        self.Run = type("Run", (), {"log": self._log})

    def init(
        self, project: str, name: str | None = None, config: dict[str, Any] | None = None, resume: str = "never",
        space_id: str | None = None,
    ) -> Any:  # fmt: skip
        assert resume in ("never", "allow", "must")
        if self.current is not None:
            self.finish()
        name = f"name-{len(self.runs)}" if name is None else name
        run = self.runs.get(name) if resume != "never" else None
        if run is None:
            run = SimpleNamespace(name=name, project=project, config=config, history=[], is_over=False)
            self.runs[name] = run
        run.is_over = False
        run.log = lambda *args, **options: self._log(run, *args, **options)
        self.current = run
        return run

    @staticmethod
    def _log(self: Any, metrics: dict[str, Any], step: int | None = None) -> None:
        assert not self.is_over and not metrics.keys() & {"step", "project", "run", "timestamp"}
        self.history.append((step, metrics))

    def finish(self) -> None:
        if self.current is None:
            raise RuntimeError("Call trackio.init() before trackio.finish().")
        self.current.is_over, self.current = True, None

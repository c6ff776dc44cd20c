"""The logger ``mlflow``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit.extras import import_extra
from vaekit.files import write_text
from vaekit.roles import loggers
from vaekit.specs.models import RunSpec
from vaekit.specs.text import flat
from vaekit.training.logger import Logger

if TYPE_CHECKING:
    from PIL import Image

    from vaekit.training.logger import Outcome

LARGEST_REQUEST = {"params": 100, "metrics": 1000}
"""Maximum number of entities that MLflow accepts in one request."""


@loggers("mlflow")
class Mlflow(Logger):
    """MLflow: log metrics, images as artifacts and the spec as parameters to a database or a tracking server.

    A resumed run continues under the same id, which is stored in `mlflow.json` in the run folder; steps that MLflow already has
    are skipped. Requires `pip install "vaekit[mlflow]"`; for `mlflow ui`, install the full MLflow package. If the server does
    not respond, requests are retried, by default for minutes: set MLFLOW_HTTP_REQUEST_MAX_RETRIES to change this.

    Args:
        tracking_uri: Tracking URI, for example sqlite:///mlflow.db or http://host:5000; default: MLFLOW_TRACKING_URI.
        experiment: Name of the experiment; created if it does not exist.
    """

    def __init__(self, *, tracking_uri: str | None = None, experiment: str = "vaekit") -> None:
        self.tracking_uri, self.experiment = tracking_uri, experiment
        self.library = import_extra("mlflow", "mlflow", "the logger 'mlflow'")
        self.client: Any = None

    def start(self, run: Path, spec: RunSpec, step: int | None) -> str:
        self.client = self.library.MlflowClient(tracking_uri=self.tracking_uri)
        file = run / "mlflow.json"
        self.resumed = step is not None and file.is_file()
        self.before = -1
        if self.resumed:
            self.id = json.loads(file.read_text("utf-8"))["id"]
            self.client.update_run(self.id, status="RUNNING")
        else:
            found = self.client.get_experiment_by_name(self.experiment)
            experiment = found.experiment_id if found is not None else self.client.create_experiment(self.experiment)
            tags = {"tags": ", ".join(spec.train.tag)} if spec.train.tag else {}
            self.id = self.client.create_run(experiment, run_name=spec.train.name or run.name, tags=tags).info.run_id
            write_text(file, json.dumps({"id": self.id}) + "\n")
            param = self.library.entities.Param
            self._send("params", [param(name, str(value)) for name, value in flat(spec.model_dump(mode="json")).items()])
        uri = self.client.tracking_uri
        return f"{uri if uri.startswith('http') else f'mlflow ui --backend-store-uri {uri}'}, experiment {self.experiment}"

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self.resumed:  # ask MLflow once which steps it has, using a metric logged every epoch
            self.before = max((metric.step for metric in self.client.get_metric_history(self.id, next(iter(values)))), default=-1)
            self.resumed = False
        if step > self.before:
            self._metrics(step, values)

    def image(self, step: int, name: str, picture: Image.Image) -> None:
        self.client.log_image(self.id, picture, key=name, step=step)

    def end(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            self._metrics(outcome.step, outcome.evaluation)
        self.client.set_terminated(self.id, status="FINISHED" if outcome is not None else "KILLED")

    def _metrics(self, step: int, values: Mapping[str, float]) -> None:
        now, metric = int(1000 * time.time()), self.library.entities.Metric
        self._send("metrics", [metric(name, value, now, step) for name, value in values.items()])

    def _send(self, what: str, entities: list[Any]) -> None:
        size = LARGEST_REQUEST[what]
        for start in range(0, len(entities), size):
            self.client.log_batch(self.id, **{what: entities[start : start + size]})

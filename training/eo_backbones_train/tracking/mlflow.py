"""MLflow, at the server or folder that its own variables say (``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME``)."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from eo_backbones.errors import UserError
from eo_backbones.files import dotted
from eo_backbones_train.tracking.logger import Logger, Opening, Outcome

EXPERIMENT = "eo-backbones"

_STATUS: Mapping[Outcome, str] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_PARAMS_AT_ONCE = 100  # MLflow's limit for one request (mlflow.utils.validation.MAX_PARAMS_TAGS_PER_BATCH)
_LONGEST_PARAM = 6000  # mlflow.utils.validation.MAX_PARAM_VAL_LENGTH

logger = logging.getLogger(__name__)


class MLflow:
    """One run there. A server that no longer answers is left alone: the training goes on."""

    def __init__(self, client: Any, run_id: str, failures: tuple[type[Exception], ...]) -> None:
        self._client, self._failures, self._answers = client, failures, True
        self.run_id: str | None = run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send one point of each curve."""
        from mlflow.entities import Metric  # noqa: PLC0415 - an extra

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        if self._answers:
            self._try(lambda: self._client.log_batch(self.run_id, metrics=metrics))

    def flush(self) -> None:
        """Do nothing: every record is sent at once."""

    def close(self, outcome: Outcome) -> None:
        """Say how the run ended."""
        if self._answers:
            self._try(lambda: self._client.set_terminated(self.run_id, _STATUS[outcome]))

    def _try(self, send: Callable[[], object]) -> None:
        try:
            send()
        except self._failures as error:
            self._answers = False
            logger.warning(
                "MLflow takes no more values (%s); the run goes on without it, metrics.jsonl holds them all",
                (str(error) or type(error).__name__).splitlines()[0],
            )


def open_logger(opening: Opening) -> Logger:
    """Begin a run, or go on with the one that an earlier process began.

    Raises:
        UserError: the server does not answer, or no longer has the run.
    """
    from mlflow import MlflowClient  # noqa: PLC0415 - an extra
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    failures = (MlflowException, OSError)  # requests' exceptions are OSErrors
    client = MlflowClient()
    try:
        if opening.run_id is not None:
            client.update_run(opening.run_id, status="RUNNING")
            return MLflow(client, opening.run_id, failures)
        return MLflow(client, _begin(client, opening), failures)
    except failures as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"MLflow cannot be used ({reason}); correct MLFLOW_TRACKING_URI, or leave --logger mlflow out"
        ) from error


def _begin(client: Any, opening: Opening) -> str:
    """Make a run with its parameters; return its id."""
    from mlflow.entities import Param  # noqa: PLC0415 - an extra

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment is not None else client.create_experiment(name)
    run_id: str = client.create_run(experiment_id, run_name=opening.tracking.name).info.run_id
    params = [Param(key, str(value)[:_LONGEST_PARAM]) for key, value in dotted(opening.tracking.config)]
    for first in range(0, len(params), _PARAMS_AT_ONCE):
        client.log_batch(run_id, params=params[first : first + _PARAMS_AT_ONCE])
    return run_id

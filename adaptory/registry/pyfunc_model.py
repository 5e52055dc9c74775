"""The code that MLflow stores with each version (models from code): `mlflow.pyfunc.load_model` runs it.

MLflow executes this file when it logs or loads the model; nothing else imports it.
"""

from pathlib import Path
from typing import Any

import pandas
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Adapter(PythonModel):  # type: ignore[misc]
    """A release that answers a table with the columns of its task: a label and a chance per class, a value, or an answer."""

    def load_context(self, context: Any) -> None:
        from adaptory import workspace
        from adaptory.release import serving

        place = workspace.find()
        self.answer = serving.load(Path(context.artifacts["release"]), place.root, place.cache)

    def predict(self, context: Any, model_input: pandas.DataFrame, params: Any = None) -> pandas.DataFrame:
        answers = self.answer(model_input.to_dict(orient="records"))
        return pandas.DataFrame([answer | answer.pop("chances", {}) for answer in answers])


set_model(Adapter())

"""Save a model as an MLflow pyfunc: it takes a table of users or histories, and returns a table of recommendations.

    pip install 'corerec-bert4rec[trackers]'
    python examples/mlflow_pyfunc.py movies.model movies-mlflow

    mlflow.pyfunc.load_model("movies-mlflow").predict(pandas.DataFrame({"user_id": [1, 2]}), params={"top_k": 5})

MLflow stores this script and the model file ("models from code"). So loading the pyfunc unpickles nothing.
"""

import sys

import mlflow
import pandas as pd
from mlflow.models import ModelSignature, set_model
from mlflow.types import ParamSchema, ParamSpec

from corerec import Bert4Rec


class Recommender(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.model = Bert4Rec.load(context.artifacts["model"])

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        """Rows of user_id, item_id, rank and score.

        Args:
            model_input: a column user_id; or a column history, lists of item ids, oldest first, whose user_id in the
                answer is the row's place, from 0.
            params: top_k.
        """
        top_k = (params or {}).get("top_k", 10)
        if "history" in model_input:
            return self.model.batch_recommend(histories=model_input["history"], top_k=top_k, as_frame=True)
        return self.model.batch_recommend(model_input["user_id"], top_k, as_frame=True)


def main(model_file, folder):
    params = ParamSchema([ParamSpec("top_k", "long", 10)])
    mlflow.pyfunc.save_model(
        folder,
        python_model=__file__,
        artifacts={"model": model_file},
        signature=ModelSignature(params=params),
        pip_requirements=["corerec-bert4rec"],
    )
    print(f"{folder}: mlflow.pyfunc.load_model({folder!r}).predict(frame)")


if __name__ == "__main__":
    main(*sys.argv[1:])
else:
    set_model(Recommender())

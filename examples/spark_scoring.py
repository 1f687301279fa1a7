"""Score a table of users with Spark: `mapInPandas`, where each Python worker holds the model.

    pip install 'corerec-bert4rec[spark]'  # it needs Java 17 or later
    spark-submit examples/spark_scoring.py movies.model users.parquet recs.parquet 10

The second argument is a Parquet table of users. With only a column user_id, the model must know the users. With a
column history (arrays of item ids, oldest first), the users may be unknown. The third argument is the output: a Parquet
table with user_id, item_id, rank and score. Its rows have no order, and an existing table is replaced. On several
machines, the model must be on a shared file system. PYSPARK_PYTHON names the Python of the workers, in which corerec
must be installed.
"""

import sys
from collections.abc import Iterator
from functools import cache, partial

import pandas as pd
import torch
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructField, StructType

from corerec import Bert4Rec

TASKS_A_CORE = 4  # a task scores one partition: several for each core even out slow ones


@cache
def load(model_file: str) -> Bert4Rec:
    """Once in each Python worker: Spark keeps a worker, with this module, from task to task."""
    torch.set_num_threads(1)  # Spark gives a worker one core
    return Bert4Rec.load(model_file, device="cpu")


def recommend(batches: Iterator[pd.DataFrame], model_file: str, top_k: int) -> Iterator[pd.DataFrame]:
    """The answers of one partition, some users at a time (spark.sql.execution.arrow.maxRecordsPerBatch)."""
    model = load(model_file)
    for batch in batches:
        if "history" not in batch:
            yield model.batch_recommend(batch["user_id"], top_k, as_frame=True)
        else:
            answers = model.batch_recommend(histories=batch["history"], top_k=top_k, as_frame=True)
            yield answers.assign(user_id=batch["user_id"].to_numpy()[answers["user_id"]])  # instead of the row's place


def answer_schema(users: DataFrame, model_file: str) -> StructType:
    """User ids have the type that they have in the table, and item ids the type that they have in the model."""
    answer = load(model_file).batch_recommend(histories=[[]], top_k=1, as_frame=True)  # popularity: one row
    _, *others = users.sparkSession.createDataFrame(answer).schema
    return StructType([StructField("user_id", users.schema["user_id"].dataType), *others])


def main(model_file, users, output, top_k=10):
    # By name, not from __main__: workers then import this file once, and `load` remembers.
    import spark_scoring

    spark = SparkSession.builder.appName("corerec").getOrCreate()
    spark.sparkContext.addPyFile(__file__)
    table = spark.read.parquet(users).repartition(TASKS_A_CORE * spark.sparkContext.defaultParallelism)
    answers = partial(spark_scoring.recommend, model_file=model_file, top_k=int(top_k))
    table.mapInPandas(answers, answer_schema(table, model_file)).write.mode("overwrite").parquet(output)
    print(f"{output}: {spark.read.parquet(output).count():,} recommendations")
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What `submitted` submits."""

from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
print("rows counted on", spark.sparkContext.master, ":", spark.range(1000).count())  # noqa: T201
spark.stop()

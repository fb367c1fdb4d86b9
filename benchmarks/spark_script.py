"""Group a ratings log by user and order each user's ratings by time in Spark; `growth.py --spark` starts and times it.

It reads the CSV with a given schema, checks nothing and writes nothing. It needs Java, and pyspark in its Python.
"""

import sys
import time

from pyspark.sql import SparkSession  # type: ignore[import-not-found]

SCHEMA = "userId long, movieId long, rating double, timestamp long"

spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.driver.memory", "8g")
    .config("spark.ui.enabled", "false")
    .getOrCreate()
)
began = time.monotonic()
log = spark.read.csv(sys.argv[1], header=True, schema=SCHEMA)
log.repartition("userId").sortWithinPartitions("userId", "timestamp").write.format("noop").mode("overwrite").save()
print(time.monotonic() - began)

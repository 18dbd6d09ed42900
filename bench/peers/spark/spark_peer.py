"""The six jobs in Spark Structured Streaming, from files to files.

spark_peer.py JOB INPUT_FOLDER OUT_FOLDER fused|exchange TASKS RUNS [MASTER]

Each run goes to OUT_FOLDER/N. It says `ready` when there is a session, and for each run `begin N` and
`end N FIRST_NS LAST_NS COMMITTED_NS`: the begin of the first batch that had lines, and the end of the last one.
With MASTER (a cluster's address, or local[*] again) it takes files as they come, until OUT_FOLDER/fed is there; else the
files that are there, as fast as it goes.
"""
import datetime
import os
import sys
import time

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

JOB, INPUT, OUT, MODE, TASKS, RUNS = sys.argv[1:7]
TASKS, RUNS = int(TASKS), int(RUNS)
MASTER = sys.argv[7] if len(sys.argv) > 7 else "local[*]"
FOLLOW = len(sys.argv) > 7


def session():
    return (
        SparkSession.builder.master(MASTER)
        .appName(JOB)
        .config("spark.sql.shuffle.partitions", TASKS)
        .config("spark.ui.enabled", "false")
        .config("spark.sql.streaming.numRecentProgressUpdates", 10000)
        .config("spark.driver.memory", os.environ.get("PEER_HEAP", "4g"))
        .config("spark.driver.host", os.environ.get("PEER_ADDRESS", "127.0.0.1"))
        .config("spark.driver.bindAddress", os.environ.get("PEER_ADDRESS", "127.0.0.1"))
        .config("spark.executor.memory", "1g")
        # In the place of a shell's progress bar, which would be drawn into the output.
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )


def column(n):
    return f.split(f.col("value"), r"\|").getItem(n)


def pipeline(lines):
    """The job's result, and whether it is a running count (one row per key and batch)."""
    value = f.col("value")
    # A real exchange between the stages, as the others have it; without it Spark puts both stages into one.
    apart = (lambda frame, key: frame.repartition(TASKS, key)) if MODE == "exchange" else (lambda frame, key: frame)
    match JOB:
        case "T0" | "C0":
            return apart(lines, value), False
        case "T1":
            return apart(lines.filter(value.contains("static")), value).select(f.replace(value, f.lit("static"), f.lit("STATIC")).alias("value")), False
        case "C1":
            kept = apart(lines.filter(column(14) == "AIR"), value)
            return kept.select(f.concat_ws("|", column(0), column(1), column(5)).alias("value")), False
        case "T2":
            keys = lines.filter(value.contains("static")).select(f.regexp_extract(value, r"^\s*(\S+)", 1).alias("key"))
        case "C2":
            keys = lines.filter(column(8) == "R").select(column(2).alias("key"))
        case _:
            sys.exit(f"there is no job {JOB}")
    counts = apart(keys, f.col("key")).groupBy("key").count()
    return counts.select(f.concat_ws("\t", "key", "count").alias("value")), True


def nanoseconds(progress):
    begun = datetime.datetime.fromisoformat(progress["timestamp"].replace("Z", "+00:00"))
    return int(begun.timestamp() * 1000) * 1_000_000


def main():
    spark = session()
    spark.sparkContext.setLogLevel("ERROR")
    print("ready", flush=True)
    for run in range(RUNS):
        folder = f"{OUT}/{run}"
        reader = spark.readStream.format("text").option("lineSep", "\n")
        # As its users would write it: all there is in one batch. With the exchange a batch is a third of the 24 files.
        if MODE == "exchange" and not FOLLOW:
            reader = reader.option("maxFilesPerTrigger", 8)
        result, counting = pipeline(reader.load(INPUT))
        writer = result.writeStream.option("checkpointLocation", f"{OUT}/checkpoint-{run}")
        writer = writer if FOLLOW else writer.trigger(availableNow=True)
        if counting:
            # Files take no updates. Written again after a failure, a batch replaces itself.
            def store(batch, number, folder=folder):
                batch.write.mode("overwrite").text(f"{folder}/batch-{number:06}")

            writer = writer.outputMode("update").foreachBatch(store)
        else:
            writer = writer.format("text").option("path", folder)
        print(f"begin {run}", flush=True)
        query = writer.start()
        if FOLLOW:
            while not os.path.exists(f"{OUT}/fed"):
                time.sleep(0.1)
            query.processAllAvailable()
            query.stop()
        else:
            query.awaitTermination()
        batches = [p for p in query.recentProgress if p["numInputRows"] > 0]
        first, last = nanoseconds(batches[0]), nanoseconds(batches[-1]) + batches[-1]["durationMs"]["triggerExecution"] * 1_000_000
        print(f"end {run} {first} {last} {last}", flush=True)
    spark.stop()


main()

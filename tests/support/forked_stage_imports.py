"""What the process imports from which forked_stage forks; no connection may be open in it."""

import google.cloud.bigquery
import google.cloud.storage  # noqa: F401

import batch_ingestion  # noqa: F401
import ingestion.batch.load
import ingestion.batch.upload
import ingestion.carts.bucket_replica
import ingestion.carts.publisher  # noqa: F401
import near_realtime_ingestion_2  # noqa: F401

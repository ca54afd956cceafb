"""The parts of batch_ingestion.py."""

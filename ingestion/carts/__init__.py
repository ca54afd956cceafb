"""The parts of near_realtime_ingestion_2.py."""

"""What the two ingestion stages are made of."""

"""A local stand-in for Google Cloud: `python -m local_gcp up | demo | status`."""

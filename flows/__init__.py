"""Prefect flows that run the graph of `dvc.yaml`: when, where, and side by side."""

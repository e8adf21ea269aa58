"""Reading results: Parquet into tables, plots and reports. Imports nothing of ours, no torch, no ray, no mlflow."""

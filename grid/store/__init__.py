"""Results on disk: one folder of Parquet files a cell."""

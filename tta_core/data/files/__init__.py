"""How image files lie on disk, and how they are decoded: folders, tar, Parquet, Arrow, the decode-once cache."""

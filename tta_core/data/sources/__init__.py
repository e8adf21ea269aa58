"""One file a kind of storage: where the images of a benchmark come from."""

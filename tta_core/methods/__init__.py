"""One folder is one method: `spec.py` describes it (torch-free), `method.py` is the algorithm."""

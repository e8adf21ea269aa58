"""One report on one accelerator, made by one command within ten minutes: `python -m tta_core.bench --gpu-report`."""

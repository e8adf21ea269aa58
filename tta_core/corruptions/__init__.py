"""The nineteen corruptions of ImageNet-C and CIFAR-C, made here from clean images of any size, on CPU or GPU.

Definitions follow Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, and the scripts that made the published files. The embedded benchmark has a ladder of its
own: `tta_core.data.sources.digits_corruptions`.
"""

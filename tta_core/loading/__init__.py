"""From a row of `tta_core/backbones.py` to a network: where its weights come from, what they hold, what is built."""

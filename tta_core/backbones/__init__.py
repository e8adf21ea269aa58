"""From a row of `table.py` to a network: where its weights come from, what they hold, what is built."""

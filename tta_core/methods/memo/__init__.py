"""MEMO: adapts to each image on its own, by the entropy of the mean prediction over augmented copies."""

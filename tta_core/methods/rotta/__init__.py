"""A category-balanced memory, robust batch statistics and a mean teacher."""

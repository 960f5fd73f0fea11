"""Reports for people: what is in a dataset, and what a model finds in it."""

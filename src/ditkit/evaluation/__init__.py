"""How good are a model's images? Distances between drawn and real ones in the features of an extractor."""

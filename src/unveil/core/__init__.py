"""The contracts: what a model, its statistics, its learner's history, its file and its public face are."""

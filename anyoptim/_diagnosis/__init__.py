"""What a user may ask of a step: who takes it and why, with which hyperparameters, and what becomes of each parameter."""

"""Training: rollouts with the inference pipeline, exact log-probabilities, and the trainers."""

"""Training: rollouts through the one pipeline, exact log-probabilities of what they said, and the trainer on top."""

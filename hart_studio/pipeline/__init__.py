"""The closed loop: ground, crop, answer from the crops only, verify. Read ``closed_loop`` first."""

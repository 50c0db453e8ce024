"""The closed loop: look, point, cut, answer from the crops alone, and check the result. Read ``closed_loop`` first."""

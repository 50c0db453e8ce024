"""Boxes from questions and answers alone: proposed, self-verified, reviewed, exported."""

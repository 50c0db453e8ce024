"""Grounding labels from questions and answers alone: propose boxes, verify them, review, export."""

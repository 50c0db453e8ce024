"""Datasets: sources read samples and count invalid rows; splits separate training and evaluation parts."""

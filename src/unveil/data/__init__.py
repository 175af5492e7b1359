"""Ragged data: batches in memory, streams from files, and the known data sets."""

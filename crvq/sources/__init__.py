"""Pinned downloads: Python wheels fetched as files, checked and unpacked once."""

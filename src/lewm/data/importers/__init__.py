"""Recordings into stores: a file a format; what decodes and distrusts files is shared."""

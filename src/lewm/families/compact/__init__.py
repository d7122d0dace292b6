"""One vector a frame, planned with in milliseconds."""

"""The article's system as it is written (Algorithm 1), in all its readings."""

"""Rivals: other models and a policy, trained on the same clips by the same loop and measured in the same way."""

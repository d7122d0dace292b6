"""A pretrained encoder that stays as it is, under a predictor (DINO-WM, V-JEPA 2-AC)."""

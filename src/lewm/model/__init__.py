"""Parts that families share: encoder, predictor, action embedding, masks, and pictures at a model's door."""

"""Where inputs come from: models, SAEs, texts. The only users of transformer-lens and sae-lens."""

"""How well a feature can be explained: sentences written for latents, and scored by detection on other contexts."""

"""Pure tensor maths of the decomposition: no files, no models, no pages."""

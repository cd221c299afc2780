"""The cache: content-addressed entries, their manifests and locks, and what pages may read of them."""

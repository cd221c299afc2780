"""What a study would take before anything is downloaded: `estimate` puts it together from shapes, work and a machine's rates."""

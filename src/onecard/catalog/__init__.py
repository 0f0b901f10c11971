"""Models, GPUs, licences and prices as data files with their readers, and what follows from a model's config by arithmetic."""

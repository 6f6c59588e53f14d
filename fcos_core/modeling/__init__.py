"""The detector: backbone, neck, FCOS head, and the registry that YAML files choose from."""

"""FCOS: head, training targets, losses and detections."""

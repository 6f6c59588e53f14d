"""Pictures of detections and curves of training runs."""

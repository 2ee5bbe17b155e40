"""Object detection and instance segmentation on images annotated as COCO's."""

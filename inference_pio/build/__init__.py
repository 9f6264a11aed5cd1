"""Building TensorRT engines from an artifact's blocks; needs TensorRT, Polygraphy and the GPU they are for."""

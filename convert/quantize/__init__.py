"""From float tensors to packed ones: storage types, calibration, and the choice of types."""

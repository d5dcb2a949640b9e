"""How good a model is: predictions, scores, calibration, test-time views, sharpness, photos, export."""

"""Running a trained network on images and measuring it; nothing here trains."""

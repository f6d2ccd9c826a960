"""Train, evaluate and recalibrate a network on images that lie whole on its device."""

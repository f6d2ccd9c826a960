"""Train, evaluate and recalibrate networks; the whole data set is on the device."""

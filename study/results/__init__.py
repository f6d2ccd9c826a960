"""The results folder and progress output: files, recording of trials, monitoring, live view."""

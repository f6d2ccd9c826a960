"""The results folder and what a person watches: files, recording of trials, live view."""

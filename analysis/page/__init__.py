"""The report page: its sentences, sections and interactive part, and the server that shows it while a study runs."""

"""Files, processes and signals: what the operating system gives, and text in YAML."""

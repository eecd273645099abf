"""What knows nothing of training: text, YAML, JSON, sockets, the processor, command lines."""

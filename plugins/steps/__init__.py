"""What a task calls: one module per pipeline step."""

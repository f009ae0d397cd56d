"""Pictures of what was trained, for documents."""

"""What people do: answer escalations, pause and resume."""

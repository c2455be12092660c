"""What both methods share."""

"""What real and synthetic features are compared by. A module a loss."""

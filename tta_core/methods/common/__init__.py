"""What two methods or more share. It is the one folder here that is no method."""

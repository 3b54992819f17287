"""What metrics compute, one file for each kind of answer."""

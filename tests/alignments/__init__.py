"""What the rules of alignment claim, call by call, to be tried on shapes of any size."""

"""Credit: the costs that each score is multiplied with."""

"""What follows from an experiment before anything is trained, in numbers and pictures."""

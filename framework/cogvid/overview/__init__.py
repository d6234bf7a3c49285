"""What there is: experiments, fragments, and runs with their state.

Nothing here needs torch: who looks for something should not wait for it.
"""

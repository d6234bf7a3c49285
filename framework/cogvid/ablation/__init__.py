"""Ablations: variants with seeds as processes of their own, side by side, and what each of them is at.

Nothing here needs torch: who looks at runs does none of their work.
"""

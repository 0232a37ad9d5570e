"""The last stage of a ranking: boosted trees over what was known of users and items at the start of a window.

It knows no ranker. Whoever uses it says what a term gives a candidate, as named columns.
"""

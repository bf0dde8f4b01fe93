"""The steps of a build: plan, write, publish, resume, finish."""

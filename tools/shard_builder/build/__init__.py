"""The work of a build: plan, write, publish, resume, finish."""

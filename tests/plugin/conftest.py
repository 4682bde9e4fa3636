"""The distributions here are not installed where our tests run: `.ci/run` runs theirs, by prove.py."""

collect_ignore_glob = ["*/tests/*"]

"""The whole road in one command, from a model and a file of rows to a student of the right size."""

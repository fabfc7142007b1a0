"""Export: a model in the form that others want it in, brought to where they get it from."""

"""From the text of a job file to a valid spec, with a place and a remedy for every error."""

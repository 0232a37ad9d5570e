"""From rows of an event log to sequences: read, validate, reject, encode, split in time."""

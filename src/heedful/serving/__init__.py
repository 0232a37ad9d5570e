"""Personalised content over HTTP: live histories, rankings, content slots, clicks. `engine` does it all without HTTP."""

"""The routes, by what they are about. A handler is a plain function, which runs in a thread."""

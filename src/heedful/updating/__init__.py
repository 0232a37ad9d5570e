"""Every night: new events, vectors and weights that go on from yesterday's, a comparison, a version to serve.

SHOP/
current -> versions/0003      the version in service, a link that is replaced atomically
versions/0003/
sequences/ embeddings/ model/ model.periods/
version.json                what it was made from, and how the models compared
.next/                        the version in the making; a killed run goes on from here
last_update.json              what the last run did, or why it refused
"""

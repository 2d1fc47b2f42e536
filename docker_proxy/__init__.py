"""The one way from tasks to the container engine: a filter that lets through what a container job needs.

Whoever may talk to an engine owns its machine, so nobody does but this proxy. It passes nothing through: each request
is parsed, checked against a short table, and written anew from what was understood. The body of a create request
becomes a body of known fields, with the limits of `config/containers.toml`. What is not in a table is refused.

`routes` knows the requests, `creation` the body of a create request, `attendance` who looks after which container,
`filter` puts them together, `server` with `messages` and `engine` are its two ends.
"""

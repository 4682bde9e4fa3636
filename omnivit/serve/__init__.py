"""The server: a model behind an OpenAI-compatible API.

- `settings`: what its user decides: the key, addresses of media, limits.
- `app`: the routes; `gate`: what every request passes first (request id, host, key, size of the body).
- `inputs`: the types of content parts that a model takes; `parts`: content parts -> messages with media.
- `fetch`: the only function that opens connections for media.
- `schema`: what requests and answers contain; `failures`: errors in OpenAI's form.
- `completions`: an answer complete or streamed; `metrics`: what is counted.
- `running`: the server's process; `opening`: the run that it serves.
- `vllm`: vLLM as the engine.

It needs `pip install "omnivit[serve]"`; only `settings` can be imported without.
"""

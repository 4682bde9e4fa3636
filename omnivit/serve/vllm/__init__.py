"""vLLM behind the server: encoders and adapters run here, the LLM runs there (`omnivit serve --backend vllm`).

- `address`: where vLLM is, checked before anything is loaded.
- `client`: HTTP to vLLM: its models, and completions as streams.
- `halves`: which models can be divided; the half that remains here.
- `trial`: whether vLLM serves the other half of this run.
- `engine`: the engine that the assistant uses.

Prompts are sent as `prompt_embeds` of `/v1/completions`, which `vllm serve --enable-prompt-embeds` takes.
"""

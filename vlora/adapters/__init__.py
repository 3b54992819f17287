"""`[lora]`: the layers of adapters, and which layers of a model get one."""

"""A loop of one's own that several ranks run together; its only argument is a folder for what each has found."""

import json
import sys
from pathlib import Path

import vlora

ranks, folder = vlora.open_ranks(), Path(sys.argv[1])
text = Path("vlora/recipes/quickstart.toml").read_text(encoding="utf-8")
recipe = vlora.parse_recipe(text, {"output.path": str(folder / "model"), "optim.name": "sgd"})
data = ranks.behind_first(lambda: vlora.load_data(recipe))
backbone, _ = vlora.load_model(recipe, data.files)
optimizer = vlora.make_optimizer(recipe.optim)
state = vlora.init_state(backbone, optimizer)
vlora.unbind(backbone)
step = vlora.make_train_step(backbone, optimizer, max_grad_norm=1.0, ranks=ranks)
losses = []
for numbers in vlora.epoch_batches(9, 4, seed=0, epoch=0, shuffle=True):
    rows = ranks.share(numbers)
    batches = [vlora.collate([data.encoder(data.train[number]) for number in rows])] if rows else []
    state, output = step(state, batches, learning_rate=1e-3)
    losses.append(float(output.nll_sum / output.n_supervised))
if ranks.is_first:
    vlora.save_state(folder / "state.safetensors", state)
others, added = ranks.gather_others([ranks.rank] * 1000), ranks.sum(2.0**25 + ranks.rank, 0.5)
found = json.dumps({"losses": losses, "others": others, "sum": added})
(folder / f"found-{ranks.rank}.json").write_text(found)

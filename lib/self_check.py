"""Before the first step on a GPU: does sampling do there what it should?

    check_sampler(model, generate, prompts)

A few tokens are sampled by recorded steps and again by eager ones: their ids must be the same. And
their log-probs must be those of the trainer, but for the rounding of the dtype. If not, a warning
says so, and the run goes on with eager steps of the plain layers: slower, with nothing recorded.
"""

import torch

from lib import decoding
from lib.batch import response_hidden
from lib.console import warn
from lib.distributed import world_size
from lib.logprobs import token_logps

TOKENS = 16  # of each response
# Mean |difference of log-probs|, in nats a token. In bf16 0.02 to 0.04 are usual.
LARGEST_GAP = {torch.bfloat16: 0.15, torch.float32: 1e-3}


@torch.no_grad()
def sampler_gap(model, rollouts):
    """Mean |log pi by the trainer - log pi by the sampler| over the tokens of these rollouts."""
    hidden, targets = response_hidden(model, rollouts, shared=False)
    logps = token_logps(hidden, model.head_weight, targets)  # [N]
    sampled = torch.tensor([p for r in rollouts for p in r.logps], device=logps.device)
    return float((logps - sampled).abs().mean())


def check_sampler(model, generate, prompts):
    """Compare recorded with eager steps, and sampler with trainer -> whether all was well.

    generate: rollout.generate. prompts: lists of ids, a handful. Nothing happens without a GPU, nor
    where several processes hold shards of the model.
    """
    if model.device.type != "cuda" or world_size() > 1:
        return True
    settings = {"samples_per_prompt": 2, "max_new_tokens": TOKENS, "stop_ids": [], "seed": "check"}
    recorded = generate(model, prompts, **settings)
    decoding.recording = False
    eager = generate(model, prompts, **settings)
    found = []
    different = sum(a.response_ids != b.response_ids for a, b in zip(recorded, eager, strict=True))
    if different:
        found.append(f"{different} of {len(eager)} responses differ if steps are recorded")
    gap, most = sampler_gap(model, recorded), LARGEST_GAP[model.compute_dtype]
    if not gap <= most:  # NaN is no gap that one can live with
        found.append(f"sampler and trainer differ by {gap:.2g} nats a token (wanted {most})")
    if found:
        decoding.joining = False
        warn(f"sampling on this GPU: {'; '.join(found)}; so decode steps are eager from here on")
    else:
        decoding.recording = True
    return not found

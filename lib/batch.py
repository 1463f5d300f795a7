"""A step's batch: from rollouts to tensors over response tokens, and from those to log-probs.

    rollouts -> Batch, [B, T] tensors            make_batch
    rewards -> rewards, some of them wrong       flip_rewards
    Batch -> parts that fit in memory            micro_batches, Batch.rows
    a part -> hidden states [N, D]               response_hidden
    Batch -> log-probs, KL, entropy [B, T]       score

The response tokens of rollout b stand in row b of every [B, T] tensor, from column 0 on; `mask` is
true there. B responses, T the length of the longest, N response tokens in all, D width.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from lib.distributed import all_reduce_max, partition, rank, world_size
from lib.kv_cache import SharedPrompts
from lib.logprobs import score_tokens


@dataclass
class Batch:
    """The responses of a step (with several processes: this one's), filled in the loop's order."""

    rollouts: list  # B rollouts
    problems: list  # B problems
    group: Tensor  # [B], the number of each response's prompt
    mask: Tensor  # [B, T], true at response tokens
    rewards: Tensor  # [B], what is trained on
    clean_rewards: Tensor  # [B], before label noise
    sampler_logps: Tensor  # [B, T], as the sampler had them
    responses: int  # how many responses the whole batch has, in all processes
    tokens: int  # and how many response tokens
    shared: bool  # compute each prompt once for all its responses

    # from scoring on
    logps: Tensor = None  # [B, T], of the policy before the update
    ref_logps: Tensor = None  # [B, T]
    kl: Tensor = None  # [B, T]
    entropy: Tensor = None  # [B, T]
    forward: tuple = None  # hidden states with gradient, if the update need not compute them again
    # from credit on
    baseline: Tensor = None  # [B], V_0
    td: Tensor = None  # [B, T]
    advantages: Tensor = None  # [B, T]
    actor_coef: float = 0.0  # c_A
    tells: float = None  # do the curves of VIMPO tell right from wrong?

    @property
    def response_share(self):
        """The share of the whole batch's responses that lie here; token_share likewise."""
        return len(self.rollouts) / self.responses

    @property
    def token_share(self):
        return sum(len(r.response_ids) for r in self.rollouts) / self.tokens

    def rows(self, index):
        """The batch of these rows alone; what is said of the whole batch stays."""
        picked = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                picked[field.name] = value[index]
            elif isinstance(value, list):
                picked[field.name] = [value[i] for i in index]
        return dataclasses.replace(self, **picked)


def make_batch(rollouts, problems, rewards, clean_rewards, samples, device, dtype, first_group=0):
    """The Batch of this process; all arguments are of the whole step, in all processes.

    rollouts and rewards are in generate's order, `samples` to a problem. Whole groups are shared
    out, balanced by their tokens; process 0 gets `first_group`, which it wants to log.
    """
    sizes = [0] * len(problems)  # tokens of each group
    for i, r in enumerate(rollouts):
        sizes[i // samples] += len(r.prompt_ids) + len(r.response_ids)
    parts = partition(sizes, world_size())
    parts.sort(key=lambda groups: first_group not in groups)
    mine = [g * samples + i for g in parts[rank()] for i in range(samples)]
    chosen = [rollouts[i] for i in mine]
    lengths = torch.tensor([len(r.response_ids) for r in chosen])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]  # [B, T]
    sampler_logps = torch.zeros(mask.shape, dtype=dtype)
    sampler_logps[mask] = torch.tensor([p for r in chosen for p in r.logps], dtype=dtype)
    return Batch(
        rollouts=chosen,
        problems=[problems[i // samples] for i in mine],
        group=torch.tensor([i // samples for i in mine], device=device),
        mask=mask.to(device),
        rewards=torch.tensor([rewards[i] for i in mine], dtype=dtype, device=device),
        clean_rewards=torch.tensor([clean_rewards[i] for i in mine], dtype=dtype, device=device),
        sampler_logps=sampler_logps.to(device),
        responses=len(rollouts),
        tokens=sum(len(r.response_ids) for r in rollouts),
        shared=worth_sharing(rollouts),
    )


def flip_rewards(rewards, samples, noise, correct, seed, step):
    """Label noise: in about this share of the groups every reward R becomes 1 - R; repeatable.

    As in the authors' code, whole groups, before V_0 is taken. samples=1 flips single responses.
    correct: then (R - noise) / (1 - 2 noise), whose mean over the flips is the clean reward.
    """
    flipped = []
    for i, reward in enumerate(rewards):
        text = f"noise:{seed}:{step}:{i // samples}".encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        draw = int.from_bytes(digest, "little") / 2**64
        flipped.append(1 - reward if draw < noise else reward)
    if correct:
        flipped = [(reward - noise) / (1 - 2 * noise) for reward in flipped]
    return flipped


def worth_sharing(rollouts):
    """Whether to compute each prompt once for its group: where that saves a quarter of all tokens.

    With long responses there is little to save, and plain causal attention needs no mask.
    """
    prompts = sum(len(r.prompt_ids) for r in rollouts)
    distinct = sum(map(len, {tuple(r.prompt_ids) for r in rollouts}))
    responses = sum(len(r.response_ids) for r in rollouts)
    return prompts - distinct > 0.25 * (prompts + responses)


def micro_batches(rollouts, budget, shared):
    """The numbers of the rollouts in lists that cost up to `budget` tokens each, padding included.

    A rollout that exceeds the budget goes alone. Like goes with like, for little padding, and the
    longest first, so that memory peaks early. Where prompts are shared, the rollouts of a prompt
    stay together. With several processes all get the same number of lists, because forward and
    backward passes are collective calls; the last lists may be empty.
    """
    number = {}  # of each distinct prompt
    prompt = [number.setdefault(tuple(r.prompt_ids), len(number)) for r in rollouts]
    P = [len(r.prompt_ids) for r in rollouts]
    T = [len(r.response_ids) for r in rollouts]
    longest = [0] * len(number)  # rollout of each prompt
    for i, p in enumerate(prompt):
        longest[p] = max(longest[p], P[i] + T[i])

    def order(i):
        return (-longest[prompt[i]], prompt[i], -T[i]) if shared else (-P[i] - T[i], i)

    parts = []
    prompts, width_P, width_T, width = set(), 0, 0, 0  # of the last part
    for i in sorted(range(len(rollouts)), key=order):
        prompts = prompts | {prompt[i]}
        width_P, width_T = max(width_P, P[i]), max(width_T, T[i])
        width = max(width, P[i] + T[i])
        rows = len(parts[-1]) + 1 if parts else 1
        cost = len(prompts) * width_P + rows * width_T if shared else rows * width
        if parts and cost <= budget:
            parts[-1].append(i)
        else:
            parts.append([i])
            prompts, width_P, width_T, width = {prompt[i]}, P[i], T[i], P[i] + T[i]
    missing = all_reduce_max(len(parts)) - len(parts)
    return parts + [[] for _ in range(missing)]


def padded_length(n, device):
    """What rows of up to n tokens are padded to, on CUDA, where every new shape costs time.

    Multiples of 64; below 512 tokens of 8 to 32, so that it is an eighth more at most. (A mask of
    rows of 8 is also read as it is. Another would be copied in each layer, and kept.)

    >>> [padded_length(n, torch.device("cuda")) for n in (3, 100, 200, 300, 1000)]
    [8, 104, 208, 320, 1024]
    """
    if device.type != "cuda":
        return n
    step = min(64, max(8, 1 << max(0, n.bit_length() - 4)))
    return -(-n // step) * step


def _padded(rows, device):
    """Lists of ids -> [len(rows), length], padded on the right with 0."""
    tensors = [torch.tensor(ids, dtype=torch.long) for ids in rows]
    tokens = pad_sequence(tensors, batch_first=True)
    missing = padded_length(tokens.size(1), device) - tokens.size(1)
    return F.pad(tokens, (0, missing)).to(device)


NOTHING = SimpleNamespace(prompt_ids=[0], response_ids=[])


def response_hidden(model, rollouts, shared):
    """The hidden states that predict the response tokens, and those tokens: -> [N, D], [N].

    Rollout after rollout. A response token is predicted by the state before it, so a row computes
    the last token of its prompt and its response but for the last token. Without rollouts N is 0,
    but a forward pass happens, on one token that nothing depends on: other processes wait for it.
    """
    rollouts = rollouts or [NOTHING]
    cache, leads = None, [r.prompt_ids for r in rollouts]
    if shared:
        cache, prompt_hidden = _prompt_cache(model, rollouts)
        leads = [ids[-1:] for ids in leads]
    rows = [[*lead, *r.response_ids[:-1]] for lead, r in zip(leads, rollouts, strict=True)]
    hidden = model.hidden(_padded(rows, model.device), cache)  # [B, L, D]
    if shared and hidden.requires_grad and world_size() > 1:
        # FSDP gathers a layer for its backward pass when a gradient reaches that layer's output,
        # so the output of the prompts' pass must have one, even if it is 0.
        hidden = hidden + 0 * prompt_hidden.sum()
    predicts = torch.zeros(hidden.shape[:2], dtype=torch.bool)  # [B, L]
    for row, (lead, r) in enumerate(zip(leads, rollouts, strict=True)):
        first = len(lead) - 1
        predicts[row, first : first + len(r.response_ids)] = True
    targets = torch.tensor([t for r in rollouts for t in r.response_ids], dtype=torch.long)
    return hidden[predicts.to(model.device)], targets.to(model.device)


def _prompt_cache(model, rollouts):
    """Each distinct prompt, but for its last token, through the model once -> cache, [G, P, D]."""
    prompts = list(dict.fromkeys(tuple(r.prompt_ids) for r in rollouts))
    index = {prompt: i for i, prompt in enumerate(prompts)}
    cache = SharedPrompts(model)
    # A prompt of one token leaves nothing to share. It is computed all the same, unseen, because
    # all processes must make the same calls.
    heads = [prompt[:-1] or prompt for prompt in prompts]
    hidden = model.hidden(_padded(heads, model.device), cache)
    lengths = torch.tensor([len(prompt) - 1 for prompt in prompts], device=model.device)
    owner = torch.tensor([index[tuple(r.prompt_ids)] for r in rollouts], device=model.device)
    cache.share(lengths, owner)
    return cache, hidden


# ---- Scoring -------------------------------------------------------------------------------------


def spread(mask, values):
    """values [N] of the tokens that count -> [B, T], 0 elsewhere."""
    zeros = torch.zeros(mask.shape, dtype=values.dtype, device=mask.device)
    return zeros.masked_scatter(mask, values)


def score(model, reference, batch, budget, temperature, kl, keep_forward=False, kl_top_k=64):
    """Log-probs, exact KL and entropy of every token, of the model as it is: -> four times [B, T].

    In micro-batches of `budget` tokens. Without a reference (None) ref_logps and kl are None.
    keep_forward: if one micro-batch holds the whole batch, leave its hidden states in
    batch.forward, with gradient, so that the update need not compute them again.
    """
    columns = [torch.zeros_like(batch.sampler_logps) for _ in range(4)]
    parts = micro_batches(batch.rollouts, budget, batch.shared)
    for rows in parts:
        rollouts, mask = [batch.rollouts[i] for i in rows], batch.mask[rows]
        with torch.set_grad_enabled(keep_forward and len(parts) == 1):
            hidden, targets = response_hidden(model, rollouts, batch.shared)
        if hidden.requires_grad:
            batch.forward = hidden, targets
        ref_hidden = ref_weight = None
        if reference is not None:
            ref_weight = reference.head_weight
            with torch.no_grad():
                ref_hidden, _ = response_hidden(reference, rollouts, batch.shared)
        stats = score_tokens(
            hidden, model.head_weight, ref_hidden, ref_weight, targets, temperature, kl, kl_top_k
        )
        for column, values in zip(columns, stats, strict=True):
            if values is not None:
                column[rows] = spread(mask, values)
    if reference is None:
        columns[1] = columns[2] = None
    return columns

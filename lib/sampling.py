"""What rollout.py stands on: drawing a token, the random numbers for it, a look at the settings.

Random numbers are a hash, so that a token's noise depends on nothing but its place.

    sample_keys(prompts, S, seed)     two words a sample: (seed, prompt, number of the sample)
    gumbel_noise(keys, t, n, stream)  g = -log(-log u), u uniform in (0, 1), of token t of a sample
    token_noise(keys, t, V)           all that the draw of a token needs
    draw(logits, noise, temperature)  a token and its log-prob
    NoiseAhead                        the noise of many tokens, made in one go

The hash takes some thirty operations, whether for one token or for many. So on a GPU, where each of
them is a kernel to launch, the sampler asks for many tokens of a sample in one go.
"""

import hashlib
import math
from collections import Counter

import torch

NOISE = 2**23  # on a GPU so many random numbers are made in one go, for up to 32 tokens


def _mix(x):
    """A hash of 32-bit numbers in int64; both factors are below 2^31, so no product overflows."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x735A2D97) & 0xFFFFFFFF
    return x ^ (x >> 15)


def _words(keys, t, stream):
    """Two words for token number t [...] of the samples with these keys [..., 2] in a stream."""
    first = _mix(keys[..., 0] + _mix(2 * t + stream))
    return first, _mix(keys[..., 1] ^ _mix(first + t))


def _gumbel(first, second, counter):
    bits = _mix(_mix(first + counter) ^ second)
    u = (bits.double() + 0.5) * 2.0**-32
    return -torch.log(-torch.log(u))


def gumbel_noise(keys, t, n, stream):
    """g [..., n] (fp64) for token number t [...] of the samples with these keys [..., 2]; on every
    device the same. Different streams give unrelated noise."""
    first, second = _words(keys, t, stream)  # [...] each
    return _gumbel(first[..., None], second[..., None], torch.arange(n, device=keys.device))


def block_width(V):
    """The width of the blocks that a vocabulary of V tokens is cut into: V's divisor next to its
    root, from below.

    >>> block_width(152064), block_width(61)
    (384, 1)
    """
    return max(d for d in range(1, math.isqrt(V) + 1) if V % d == 0)


def token_noise(keys, t, V):
    """Noise for one draw from V tokens: first a block, then a token in it -> [..., V/width + width]

    keys [..., 2] and t [...] as in gumbel_noise; they may be broadcast.
    """
    blocks, width = V // block_width(V), block_width(V)
    # Both streams in one go: gumbel_noise of stream 0 for the blocks, of stream 1 for the tokens.
    place = torch.arange(blocks + width, device=keys.device)
    stream = (place >= blocks).long()
    streams = torch.arange(2, device=keys.device)
    first, second = _words(keys[..., None, :], t[..., None], streams)  # [..., 2] each
    return _gumbel(first[..., stream], second[..., stream], place - blocks * stream)


def sample_keys(prompts, samples_per_prompt, seed):
    """Two 32-bit words a sample. A prompt that stands twice goes on numbering its samples."""
    seen, keys = Counter(), []
    for prompt in map(tuple, prompts):
        for _ in range(samples_per_prompt):
            text = f"{seed}:{seen[prompt]}:{','.join(map(str, prompt))}".encode()
            digest = hashlib.blake2b(text, digest_size=8).digest()
            keys.append([int.from_bytes(word, "little") for word in (digest[:4], digest[4:])])
            seen[prompt] += 1
    return keys


# ---- Drawing a token -----------------------------------------------------------------------------


def gumbel_max(logits, noise):
    """One draw per row from softmax(logits): [A, n] and [A, n] (fp64) -> [A]."""
    return (logits + noise).argmax(1)


def keep_likely(logits, top_p, top_k, width=None):
    """logits [A, V] -> the same with -1e30 outside the top_k likeliest and, of those, the fewest of
    mass top_p; and whether they are among the `width` likeliest (None: V), [A]."""
    width = min(top_k or width or logits.size(1), logits.size(1))
    values, index = logits.topk(width, dim=1)  # [A, width], descending
    left = values if top_k else logits
    mass = (values - left.logsumexp(1, keepdim=True)).exp()
    before = mass.cumsum(1) - mass  # the mass of the likelier tokens
    values = torch.where(before < top_p, values, -1e30)
    kept = torch.full_like(logits, -1e30).scatter_(1, index, values)
    return kept, mass.sum(1) >= top_p if width < logits.size(1) and not top_k else None


def draw(logits, noise, temperature, top_p=1.0, top_k=0, width=None):
    """One token per row: logits [A, V], noise of token_noise -> token [A], log pi(token) [A], sure.

    log pi is at this temperature, before top-p and top-k. Temperature 0 is greedy. sure [A]: false
    where top-p takes more than `width` tokens, so that the draw must be made again; None: all are.

    V numbers of noise a token would be many. So the vocabulary is cut into about sqrt(V) blocks: a
    block is drawn by its mass, then a token in it, since p(v) = p(block of v) p(v | block of v).
    """
    A, V = logits.shape
    if temperature == 0:
        token = logits.argmax(1)
        return token, logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(1), None
    if temperature != 1:
        logits = logits / temperature
    filtered, sure = top_p < 1 or top_k > 0, None
    blocks = logits
    if filtered:
        blocks, sure = keep_likely(logits, top_p, top_k, width)
    size = block_width(V)
    blocks = blocks.view(A, -1, size)  # [A, V / size, size]
    within = blocks.log_softmax(2)  # log p(v | block of v)
    mass = blocks.amax(2) - within.amax(2)  # logsumexp, [A, V / size]
    block_noise, noise = noise.split([V // size, size], dim=1)
    block = gumbel_max(mass, block_noise)[:, None]  # [A, 1]
    within = within.gather(1, block[..., None].expand(A, 1, size))[:, 0]  # [A, size]
    place = gumbel_max(within, noise)[:, None]  # [A, 1]
    token = torch.add(place, block, alpha=size)  # [A, 1]
    if filtered:
        logp = logits.gather(1, token)[:, 0] - logits.logsumexp(1)
    else:
        logp = (mass.log_softmax(1).gather(1, block) + within.gather(1, place))[:, 0]
    return token[:, 0], logp, sure


# ---- Noise made ahead ----------------------------------------------------------------------------


class NoiseAhead:
    """The noise of the next tokens of all rows; on a GPU that of up to 32 tokens made in one go.

    keys [A, 2]: those of the rows, looked at whenever noise is made. All rows use entry t mod
    `ahead` at time t of the sampler's clock, so they all need more at the same times.
    """

    def __init__(self, keys, V, many, greedy):
        self.keys, self.V, self.greedy = keys, V, greedy
        n = token_noise(keys[:1], keys[:1, 0], V).size(1)  # numbers a token
        self.ahead = max(1, min(32, NOISE // (len(keys) * n))) if many else 1
        self.times = torch.arange(self.ahead, device=keys.device)
        self.noise = keys.new_zeros(len(keys), self.ahead, n, dtype=torch.double)

    def make(self, rows, t, clock):
        """Make that of these rows, a slice or numbers [n], whose next tokens have numbers t [n]."""
        if not self.greedy:
            t = t[:, None] + self.times - clock % self.ahead  # [n, ahead]
            self.noise[rows] = token_noise(self.keys[rows, None], t, self.V)

    def at(self, time, A):
        """That of the first A rows at this time, a tensor [1]."""
        return self.noise[:A].index_select(1, time % self.ahead)[:, 0]


# ---- Settings ------------------------------------------------------------------------------------


def check_settings(
    model, prompts, samples_per_prompt, max_new_tokens, temperature, top_p, top_k, slots
):
    """ValueError for an empty prompt, an unknown id or a setting that means nothing."""
    for p, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {p} is empty; wanted at least one token (a BOS, say)")
        if min(prompt) < 0 or max(prompt) >= model.config.V:
            found = f"an id outside the model's vocabulary of {model.config.V}"
            raise ValueError(f"prompt {p} holds {found}")
    counts = {"samples_per_prompt": samples_per_prompt, "max_new_tokens": max_new_tokens}
    for name, value in (counts | {"slots": 1 if slots is None else slots}).items():
        if value < 1:
            raise ValueError(f"{name} is {value}; wanted 1 or more")
    if top_k < 0:
        raise ValueError(f"top_k is {top_k}; wanted 0 (off) or more")
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature is {temperature}; wanted 0 (greedy) or more")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; wanted more than 0, at most 1")

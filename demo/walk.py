"""The method on one example that fits on a page, with numbers: what `python vimpo.py` prints.

Two responses to one prompt, of three tokens each; an alphabet of three tokens; one response is
right. The policy is a table of logits, so that one step of gradient descent can be followed. Each
line is named by its equation in vimpo.py, and its numbers come from the functions there.
"""

import torch

import vimpo
from lib.logprobs import kl_from_logits

BETA, LAMBDA, ACTOR_SHARE, LR = 0.5, 0.5, 0.1, 3.0
ALPHABET = "abc"
TOKENS = torch.tensor([[0, 1, 2], [0, 2, 2]])  # [B, T]: "abc" and "acc"
REWARDS = torch.tensor([1.0, 0.0])  # only the first is right
GROUP = torch.tensor([0, 0])  # both answer the same prompt
MASK = torch.ones(2, 3, dtype=torch.bool)
# The policy is a table: a row of logits for each state, "", "a", "ab" and "ac".
STATES = torch.tensor([[0, 1, 2], [0, 1, 3]])  # [B, T]: where each token was sampled
POLICY = torch.tensor([[1.0, 0, 0], [0, 0.8, 0.2], [0, 0, 1.0], [0.5, 0, 1.0]])  # [4, V]
REFERENCE = torch.tensor([[0.6, 0, 0], [0, 0.3, 0.6], [0, 0, 1.0], [0.5, 0, 0.8]])  # [4, V]


def show(name, values, what, digits=3):
    """A line: name, the numbers of each response, what it is."""
    rows = []
    for row in values.tolist():
        row = row if isinstance(row, list) else [row]
        rows.append(" ".join(f"{x:+.{digits}f}" for x in row))
    print(f"{name:19}{rows[0]:27}{rows[1]:27}{what}")


def credit(table):
    """Log-probs, KL, td and V of the policy with this table of logits."""
    logps = table.log_softmax(-1)[STATES, TOKENS]  # [B, T]
    ref_logps = REFERENCE.log_softmax(-1)[STATES, TOKENS]
    kl = kl_from_logits(table, REFERENCE)[STATES]
    td = vimpo.td_terms(logps, ref_logps, kl, MASK, BETA)
    v0 = vimpo.group_baseline(REWARDS, GROUP)
    return logps, ref_logps, kl, td, v0, vimpo.implied_values(td, MASK, v0)


def main():
    table = POLICY.clone().requires_grad_()
    logps, ref_logps, kl, td, v0, values = credit(table)
    print(f"beta {BETA}, lambda {LAMBDA}, the actor's share {ACTOR_SHARE}\n")
    texts = ["".join(ALPHABET[i] for i in row) for row in TOKENS.tolist()]
    print(f"{'':19}{texts[0] + ', right':27}{texts[1] + ', wrong'}")
    show("R", REWARDS, "the reward, known at the end only", 1)
    show("log pi", logps.detach(), "of each sampled token")
    show("log pi_ref", ref_logps, "the frozen reference")
    show("KL", kl.detach(), "of pi and pi_ref at each token, over the whole vocabulary")
    show("td          (1)", td.detach(), "beta (log pi - log pi_ref - KL): credit of one token")
    show("V_0", v0, "the mean reward of the group", 1)
    show("V_t", values.detach(), "V_0 + td so far: the implied chance of success", 2)

    print("\nThe value loss: where does the curve end, and where should it?")
    residual = vimpo.residuals(td, REWARDS, v0, MASK)
    value_loss = vimpo.value_loss(td, REWARDS, v0, MASK)
    show("R - V_0", REWARDS - v0, "the target of sum td", 1)
    show("residual", residual.detach(), "sum td - (R - V_0)")
    print(f"L_V         (2)    {value_loss:.4f}: mean of 1/2 residual^2")
    (pull,) = torch.autograd.grad(value_loss, logps, retain_graph=True)
    show("-dL_V/dlog pi", -pull, "the same for all tokens of a response", 4)

    print("\nThe actor: the tokens differ.")
    raw = vimpo.gae(td, MASK, LAMBDA)
    advantages = vimpo.whiten(raw, MASK)
    coef = vimpo.actor_coef_of_share(ACTOR_SHARE, td, REWARDS, v0, MASK, BETA)
    actor_loss = vimpo.ppo_loss(logps, logps.detach(), advantages, MASK)
    show("A           (3)", raw, "td_t + lambda td_{t+1} + ...")
    show("A, whitened", advantages, "mean 0, variance 1 over the batch")
    print(f"L_A         (4)    {abs(actor_loss):.4f}, though its gradient is not; c_A = {coef:.4f}")
    (pull,) = torch.autograd.grad(coef * actor_loss, logps, retain_graph=True)
    show("-c_A dL_A/dlog pi", -pull, "each token its own", 4)

    loss = value_loss + coef * actor_loss
    loss.backward()
    after = credit(table.detach() - LR * table.grad)
    print(f"\nOne step down the gradient of L = L_V + c_A L_A (5) = {loss:.4f}, rate {LR}:")
    show("change of log pi", after[0] - logps.detach(), "up where right, down where wrong")
    show("V_t", after[-1], "the right curve has moved towards 1, the wrong one towards 0", 2)
    moved = vimpo.value_loss(after[3], REWARDS, v0, MASK)
    print(f"L_V                {value_loss:.4f} -> {moved:.4f}")

"""Descent on the value loss alone leads from pi_ref to pi*, on a tree where pi* is known exactly.

    python experiments/tree.py        # seconds; writes results/tree.jsonl and results/tree.svg

A tree of three levels with three tokens each, random 0/1 rewards at its leaves and a random
reference. pi* is computed by backward induction (identity (1) in vimpo.py). The policy is a table
of logits that begins as the reference, and every leaf counts by its probability, so that a step is
the expected step of VIMPO without its actor. A row of the results: step, L_V, the largest
difference |pi - pi*| of a probability, and V_0 beside the true V*.
"""

import torch
from launch import RESULTS, append_jsonl, read_jsonl

import vimpo

A, DEPTH, BETA, STEPS = 3, 3, 0.3, 300


def solve(rewards, ref):
    """pi* and V* by backward induction: rewards [leaves], ref a list of [A^t, A] -> list, float."""
    Q, policy = rewards, []
    for t in reversed(range(DEPTH)):
        Q = Q.view(-1, A)  # a row for each state of depth t
        policy.insert(0, (ref[t] + Q / BETA).log_softmax(-1))
        Q = (policy[0].exp() * Q).sum(-1)  # the state's value
    return policy, float(Q)


def main():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    rewards = (torch.randn(A**DEPTH) > 0).double()
    ref = [torch.randn(A**t, A).log_softmax(-1) for t in range(DEPTH)]
    best, value = solve(rewards, ref)
    logits = [table.clone().requires_grad_() for table in ref]
    optimizer = torch.optim.Adam(logits, lr=0.1)
    leaf = torch.arange(A**DEPTH)
    states = [leaf // A ** (DEPTH - t) for t in range(DEPTH)]  # of each leaf's path, at depth t
    tokens = [leaf // A ** (DEPTH - 1 - t) % A for t in range(DEPTH)]
    mask = torch.ones(A**DEPTH, DEPTH)
    file = RESULTS / "tree.jsonl"
    file.unlink(missing_ok=True)
    for step in range(STEPS + 1):
        tables = [table.log_softmax(-1) for table in logits]
        levels = list(zip(tables, ref, states, tokens, strict=True))
        logps = torch.stack([table[s, a] for table, _, s, a in levels], 1)  # [B, T]
        ref_logps = torch.stack([r[s, a] for _, r, s, a in levels], 1)
        kl = torch.stack([vimpo.kl_from_logits(table, r)[s] for table, r, s, _ in levels], 1)
        td = vimpo.td_terms(logps, ref_logps, kl, mask, BETA)
        weight = logps.detach().sum(1).exp()  # the probability of each leaf
        v0 = weight @ rewards
        residual = vimpo.residuals(td, rewards, v0, mask)
        loss = (weight * residual.square()).sum() / 2
        if step % 10 == 0:
            pairs = zip(tables, best, strict=True)
            error = max(float((p.detach().exp() - q.exp()).abs().max()) for p, q in pairs)
            row = {"step": step, "L_V": loss.item(), "error": error, "V_0": v0.item(), "V": value}
            append_jsonl(file, row)
            print(row)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    plot(read_jsonl(file))


def plot(rows):
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib: no plot")
        return
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "vimpo"
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(4, 2.8))
    steps = [row["step"] for row in rows]
    axis.semilogy(steps, [row["error"] for row in rows], label="largest |pi - pi*|")
    axis.semilogy(steps, [row["L_V"] for row in rows], label="L_V")
    axis.set_xlabel("step")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(RESULTS / "tree.svg")


if __name__ == "__main__":
    main()

"""What the lesson stands on. Nothing in here imports a file of the root.

    logprobs.py      log-probs, exact KL and entropy, chunked over tokens
    batch.py         rollouts -> [B, T] tensors, micro-batches, hidden states of response tokens
    kv_cache.py      caches in which many responses share one prompt
    fast.py          what only speed asks for, swapped into model.py's parts from outside
    decoding.py      a decode step with few kernels, recorded as a CUDA graph
    self_check.py    before the first step on a GPU: is sampled what should be?
    sampling.py      the random numbers of sampling, a hash; its settings
    checkpoint.py    Hugging Face folders: config.json and safetensors
    run_folder.py    settings, logs and checkpoints of a run, and how it goes on
    metrics.py       what a step reports, and warnings
    distributed.py   torchrun: shared work, sums over processes, shards of parameters, signals
    equivalence.py   does an answer mean what the right one means?
    spelling.py      with latex.py: an answer's text -> expression and units
    grading.py       reward functions from a user's file; a file of graded pairs
    evaluation.py    results of eval.py that survive a cut; estimates.py: intervals, pass@k, maj@k;
                     eval_tables.py: how they are printed
    page.py          what report.py shows, from a run folder; report.html, .css, .js
    trackers.py      TensorBoard and Weights & Biases, where they are installed
    settings.py      the flags of train.py and eval.py, with their defaults
    tokenizer.py     tokenizer.json and chat templates; with pieces.py, how a text is cut for BPE
    data.py          JSONL -> problems -> prompts
    console.py       flags, one-line errors, progress
    timing.py        for bench.py: contestants in turns, peak memory; gpu_bench.py: its --gpu

Importing it sets the environment that torch reads when it is loaded, so import it first.
"""

import os

# Threads that wait for each other soon go to sleep. If they spin on, as they do by default, a step
# of the demo takes five times as long on two cores beside one other busy program.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Shapes differ from step to step; without this the GPU's memory falls into unusable pieces.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

"""The rules of the benchmarks: metrics, recalls, VQA's answer normalisation, and submission files.

Read in this order:
    metrics.py         accuracy of VQA, visual entailment, NLVR2, VCR and referring expressions
    vqa_answers.py     the official normalisation of answers, the answer vocabulary, soft targets
    probes.py          linear probes: what can be read from a model's states
    recall.py          image-text retrieval: ranks and recalls
    ids.py             the check that predictions have exactly the ids of a split
    probabilities.py   logits to probabilities, for ensembles
    submission.py      the files that leaderboards take, and the logits for ensembles
    score_chunks.py    a large score matrix that is computed in parts, so that it can be interrupted
May import `utils`. Imported by `optim`, `prepare`, the scripts at the top level, `scripts` and `examples`; never by
`data` or `model`, which are rooms of the same floor.
"""

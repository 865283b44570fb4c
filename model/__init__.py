"""What is learned: UNITER itself, a small file for each task's head, and the loading of weights.

Reading order:
1. `uniter`: the embedders, the encoder and the pooler (paper section 3.1); `layers` has small blocks that all share.
2. `attention`: the one attention function, inside the sequences of a packed stream.
3. `pretrain`: the heads and losses of pre-training (section 3.2); `ot`: optimal transport for word-region alignment.
4. A file for each finetuning task: `vqa` (visual entailment too), `nlvr2`, `vcr`, `referring`, `retrieval`.
5. `weights`: from a checkpoint to a model, with `weight_files`, `weight_names` and `weight_checks`; `growth`: models
   with more token types or words than their checkpoint.
6. `model_json`: the sizes of a model, read from its JSON.

A model takes a `PackedBatch`. `forward` returns scores; `losses` (in `pretrain`, a method for each objective) returns
scores and the loss without reduction. Tasks, in the scripts, reduce it and say how scores become predictions.
Only `weight_files` and `model_json` open files. May import `utils`, and from `data` the type `data.batch.PackedBatch`
for annotations. Imported by `optim`, `examples` and the scripts at the top level.
"""

"""How a model is trained and run: the contract of a task, the training loop, prediction and inference.

Read in this order:
    task.py                      what a task must give: datasets, model, loss, predictions, scores
    run.py, trainer.py           from a command line to a run; the training loop, the same for all tasks
    update.py, optimizer.py      one optimiser step: averaging, clipping, learning-rate schedule, parameter groups
    skipped.py                   steps that were skipped because a number was not finite, counted for each entry
    train_state.py, run_record.py    what a run saves and resumes; what must not differ when it resumes
    log_window.py                the numbers of a log record
    precision.py, prefetch.py    half precision; batches that are copied to the device ahead of time
    predict.py, infer.py         predictions and scores of whole datasets; what every `inf_*.py` shares
    gather.py                    predictions of all ranks on rank 0
May import `utils`, `data`, `model`, `evaluation`. Imported by `pretrain*.py`, `train_*.py`, `inf_*.py`, `scripts` and
`examples`, never by `prepare`.
"""

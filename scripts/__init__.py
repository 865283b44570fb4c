"""Commands that users run by hand, as `python -m scripts.NAME`.

Read in this order:
    demo.py, compare_seeds.py, compare_tasks.py    the whole pipeline on generated data; `demo_world/` makes the data
    describe_regions.py, import_features.py        region features as `.npz` files; `convert_imgdir.py` makes an image
                                                   store of them, and `check.py` reads every record of a store
    evaluate.py, eval_vqa.py, eval_nlvr2.py        scores of results files; `read_results.py` has the shared readers
    ensemble.py, averages.py                       the average of several runs
    kill_test.py                                   kills and resumes training runs, and compares the results
It may import `utils`, `data`, `model`, `evaluation`, `optim` and `prepare`, but no training script; `inf_*.py` and
`examples` may import it. `convert_imgdir.py` and `eval_nlvr2.py` also run alone, so they import nothing of the project.
"""

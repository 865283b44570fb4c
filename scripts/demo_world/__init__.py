"""The demo world: generated pictures with annotations in official formats, and the commands of the demo.

Read in this order:
    scene.py, draw.py, words.py                what a picture shows, how it is drawn, and the words about it
    captions.py, questions.py                  captions, and VQA questions with answers
    gallery.py, claims.py                      the pictures in which a claim is true; then the other tasks:
                                               `statements.py` (NLVR2), `entailment.py` (SNLI-VE), `retrieval.py`,
                                               `referring.py` (RefCOCO), `commonsense.py` (VCR)
    tasks.py, make_demo_data.py                write the annotation files of all tasks, and the pictures
    runner.py, demo_tasks.py, report.py        run the commands of the demo, and print its scores; `side_by_side.py`
                                               runs several at a time
    probe.py                                   what a model of the demo knows, without finetuning
Only `scripts/demo.py`, `scripts/compare_*.py` and tests import it. It may import what `scripts` may.
"""

"""How stores are made: annotation files become records of text stores, images become region features.

Read in this order:
    entries.py                       JSON files and lines; their fields are checked, and errors name file and place
    annotations.py                   COCO captions, VQA v2, your own jsonl files; then `annotations_tasks.py` (NLVR2,
                                     SNLI-VE, Karpathy's splits) and `annotations_vcr.py`
    image_names.py, image_lists.py   the key of an image in the image store; lists of images to keep or to leave out
    tokenizer.py                     text to word pieces
    command_line.py                  the options of `prepro.py`
    preparation.py                   what all subcommands of `prepro.py` share: selection, records, counts
    texts.py, referring.py, vcr.py   one function for each subcommand of `prepro.py`; `instances.py`: COCO's boxes
    boxes.py, regions.py, output.py  region features without a detector, and the names of their files
It may import `utils`, `data`, `model`, `evaluation`. Higher floors may import it: `prepro.py`, `scripts`, `examples`.
"""

"""What is read: stores (LMDBs), datasets (a small file for each task), masks, batch plans and packed batches.

The way from files to a batch, which is also the reading order:
1. Stores: `stores` opens and checks the LMDBs of a run; `txt_store` and `img_store` read records by number.
   `index_cache` keeps their indexes, `lmdb_io` and `lmdb_pages` guard the LMDBs.
2. Pairs: once an epoch a dataset (`dataset` is the contract, `text_image` the usual base class, `vqa` an example) pairs
   texts with images (`pairs`) and gives the length of each example (`units`), without reading a record.
3. Plans: `sampler` cuts the epoch into batches of at most `budget` units, and makes a `BatchPlan` of each.
4. Batches: `loader` builds the examples of a plan in loader processes (`workers`), and `batch.collate` packs them into
   one stream, in memory that the processes share (`shared_memory`).

Two captions, of 3 words and of 2 words, about one image of 4 regions, with a budget of 20 units:
    pairs   [[0, 0], [1, 0]]: a row for each example, the number of its text and the row of its image
    units   [9, 8]: words + [CLS] and [SEP] + regions, 3 + 2 + 4 and 2 + 2 + 4, so one plan takes both: indices [0, 1]
    stream  [CLS] w w w [SEP] r r r r [CLS] w w [SEP] r r r r, with cu_seqlens [0, 9, 17]: two starts and the end
    img_row [0, 1, 2, 3, 0, 1, 2, 3]: the row of `img_feat` (4, D) for each of the 8 regions; the image is there once
May import `utils` only. Imported by `optim`, `prepare`, `scripts`, `examples` and the scripts at the top level.
"""

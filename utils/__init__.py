"""What all rooms use: options, distributed processes, logging, and safe reading and writing of files.

Read in this order:
    errors.py                          `InputError`, the error for all wrong input
    options.py, run_config.py          an option as a dataclass field; the options of every training script
    config.py, paths.py                how options are read from JSON and the command line; paths in them
    local_paths.py                     paths that only another program would understand
    ranges.py                          the ranges of numbers in options
    store_options.py                   the options of finetuning scripts that name text and image stores
    compute_options.py                 options of training and inference that say how to compute
    launcher_table.py, launchers.py    who started this process, and as which rank
    meeting_point.py, meeting.py       where and whether all ranks meet; waits.py: whom one waits for
    devices.py                         the GPU of a rank
    collectives.py                     what ranks exchange: torch.distributed; horovod_collectives.py: Horovod
    distributed.py, log.py             the ranks of a run; log.txt, metrics.jsonl and the progress bar
    output_dir.py                      the output folder of a run: its lock, and a new start in it
    files.py, checkpoint.py, npz.py    files written whole or not at all; weights and train states; arrays
    output_files.py                    outputs that are no inputs; several files that appear together
    os_errors.py, json_text.py         what the operating system and the parser of JSON say, as `InputError`
    fingerprints.py                    how a changed file is noticed
    unpickle.py, formats.py            pickles read without running code; numbers of the release's formats
Every room may import `utils`. It imports no other room: the lowest floor of docs/DESIGN.md section 3.
"""

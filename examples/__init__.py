"""Tasks that are not the release's, each in a folder of its own that nothing else imports.

`toy` is the smallest task (docs/ADD_A_TASK.md).
`nlvr1` is a study on a real benchmark (examples/nlvr1/README.md).
An example may import every room but `inf_*.py`.
"""

"""Numbers and labels of the release's file formats, each defined once."""

IMG_DIM = 2048  # width of the region features of bottom-up attention
IMG_LABEL_DIM = 1601  # classes of that detector, background first
VCR_TOKENS = 81  # special tokens for persons and objects, appended to the vocabulary
CHOICES = 4  # number of answers, and of rationales, of a VCR question
UNLABELLED = -1  # the label of examples in a test split without public labels
TEXT_KEYS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")  # in meta.json: how text was made fit (ours)
VE_LABELS = ("contradiction", "entailment", "neutral")  # names of the labels 0, 1, 2 of visual entailment

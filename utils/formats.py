"""The numbers and labels of the release's formats, each said once."""

IMG_DIM = 2048  # width of the region features of bottom-up attention
IMG_LABEL_DIM = 1601  # its classes, background first
VCR_TOKENS = 81  # special tokens for persons and objects, appended to the vocabulary
CHOICES = 4  # answers, or rationales, of a VCR question
UNLABELLED = -1  # label of an example of a test split
VE_LABELS = ("contradiction", "entailment", "neutral")  # by label

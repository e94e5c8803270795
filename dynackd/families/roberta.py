"""RoBERTa (Liu et al., 2019), and XLM-R and CamemBERT, which are RoBERTas with other vocabularies: BERT's layers, with
positions that are counted from the padding."""

from dataclasses import replace

from dynackd.families.bert import BERT

ROBERTA = replace(BERT, positions_follow_padding=True)

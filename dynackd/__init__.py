"""dynackd: train once, cut any size.

Shrinks fine-tuned Transformer encoders: a weight-sharing supernet of all widths and depths, trained with contextual
knowledge distillation (CKD) at every sub-network, out of which fixed-size students are sliced and exported.

Importing the package registers its students with transformers' Auto classes, so that
`AutoModelForSequenceClassification.from_pretrained(student)` works.
"""

from dynackd.students.student import load_student  # registers the student classes
from dynackd.subnet import FULL, Grid, SubnetSpec
from dynackd.supernet.network import Supernet, load_supernet
from dynackd.version import __version__

__all__ = ["FULL", "Grid", "SubnetSpec", "Supernet", "__version__", "load_student", "load_supernet"]

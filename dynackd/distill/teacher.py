"""Who is imitated."""

import torch

from dynackd.distill.matching import MATCHINGS
from dynackd.distill.settings import RELATIONS, DistillationSettings
from dynackd.distill.signals import TeacherSignal
from dynackd.errors import UserError
from dynackd.subnet import Geometry, Subnet
from dynackd.supernet.network import Supernet
from dynackd.tasks.common_words import read_both
from dynackd.tasks.kind import Kind
from dynackd.tasks.parts import Tensors


class Teacher:
    """A frozen network that sub-networks learn from: of their own shape, or of another hidden size, depth and family.

    network: any of its sub-networks may be asked. kind: of the task, whose outputs it gives. matching: a name in
    `MATCHINGS`. reads_others: whether it reads other tokens than its students; then a batch holds both
    (`tasks/common_words.py`).
    """

    def __init__(self, network: Supernet, kind: Kind, matching: str = "own", reads_others: bool = False) -> None:
        self.network, self.kind, self.matching = network.frozen_copy(), kind, matching
        self.reads_others = reads_others

    def matched(self, student: Subnet, full: Geometry) -> tuple[int, ...]:
        """The 0-based layers that a student's match, one for each; full: the sizes of the student's full network."""
        return MATCHINGS[self.matching](student, full, self.network.geometry)

    def signal(self, batch: Tensors, settings: DistillationSettings, subnet: Subnet) -> TeacherSignal:
        """What its sub-network has to say of a batch: its outputs, and what the active terms want of its layers."""
        own, common = read_both(batch)
        inputs = self.kind.split(own)[0] if common is None else dict(common.inputs)
        with torch.no_grad():
            output = self.network(subnet, **inputs)
            outputs = self.kind.read(output.outputs, inputs, self.network.model.config)
        return TeacherSignal(settings, self.kind, outputs, output.hidden_states, own, common)

    def unlike(self, full: Geometry) -> str | None:
        """Why its hidden states cannot be compared one by one with those of students whose full network has these
        sizes; None where they can."""
        own = self.network.geometry.hidden
        if own != full.hidden:
            return f"the teacher's hidden size is {own} and the model's {full.hidden}"
        return "the teacher reads other tokens than the model" if self.reads_others else None

    def check(self, full: Geometry, settings: DistillationSettings) -> None:
        """Refuse (`UserError`) students whose full network has these sizes where a term or the matching cannot."""
        self.matched(Subnet((), self.network.geometry.hidden), full)
        if not (why := self.unlike(full)):
            return
        blind = settings.blind(self.kind) if self.network.geometry.hidden != full.hidden else ""
        if blind or settings.active({"hidden_mse": 0}):
            raise UserError(
                f"{why}, so the distillation term '{blind or 'hidden_mse'}' has nothing to compare; set "
                f"distillation.signal to {RELATIONS}, which compares relations alone"
            )

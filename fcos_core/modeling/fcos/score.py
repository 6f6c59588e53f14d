"""Score of a candidate, that is, of a class at a location (FCOS, sec. 3.1 "Inference" and sec. 3.3)."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ScoreRule:
    """Conventions of a detector for the score, and for the two choices made by it before NMS.

    Attributes:
        square_root: the score is the square root of class probability times box quality; False: it is the product.
        threshold_on_score: the threshold of candidates is one of the score; False: of the class probability.
        rank_by_class: the best candidates of a level are the best by class probability; False: by score.
    """

    square_root: bool = False
    threshold_on_score: bool = False
    rank_by_class: bool = False

    def score(self, probabilities: Tensor, quality: Tensor) -> Tensor:
        """Return the scores of class probabilities and box qualities, both from 0 to 1, whose shapes broadcast."""
        product = probabilities * quality
        return product.sqrt() if self.square_root else product

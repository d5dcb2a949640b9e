"""Ensembles: members' probabilities combined by a vote, in one model."""

from kcifar.voting.ensembles import ensemble
from kcifar.voting.layer import Voting
from kcifar.voting.soup import soup

__all__ = ["Voting", "ensemble", "soup"]

"""The text files of a weights folder: model card, results for the Hub, licence, STAC item.

Everything in them comes from the input contract, the record of how the weights were made (``recipe.json``) and rows of
``results.csv``. A number that none of these holds does not appear.
"""

from eo_backbones.cards.card import CARD_FILE, model_card
from eo_backbones.cards.facts import CardFacts, Plan
from eo_backbones.cards.folder_texts import folder_texts

__all__ = ["CARD_FILE", "CardFacts", "Plan", "folder_texts", "model_card"]

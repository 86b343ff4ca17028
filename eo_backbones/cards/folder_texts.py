"""All text files of a weights folder that follow from what is known about the weights and from results."""

import json
from collections.abc import Sequence

from eo_backbones.cards.card import CARD_FILE, model_card
from eo_backbones.cards.facts import LICENSE_FILE, CardFacts
from eo_backbones.cards.hub_results import hub_results
from eo_backbones.cards.licences import licence_text
from eo_backbones.folder import CONFIG_FILE, config_json
from eo_backbones.result_tables import RESULTS_FILE, Row, csv_text, renamed, rows_of
from eo_backbones.stac import STAC_FILE, stac_item


def folder_texts(facts: CardFacts, results: Sequence[Row] = (), *, size_bytes: int | None = None) -> dict[str, str]:
    """Return name -> content of card, config, STAC item and, where there are such, results and licence.

    Args:
        facts: what is known about the weights, which are an encoder with one input channel.
        results: rows of ``results.csv``, of these weights and of what they were compared with.
        size_bytes: of ``model.safetensors``; ``None`` if nobody has made the weights yet.

    Raises:
        UserError: a row for this model was measured with other weights.
    """
    item = stac_item(
        name=facts.name,
        license=facts.license,
        input=facts.input,
        record=facts.record,
        size_bytes=size_bytes,
        network=facts.network,
    )
    texts = {
        CARD_FILE: model_card(facts, results),
        CONFIG_FILE: _json(config_json(input=facts.input, license=facts.license, architecture=facts.network.name)),
        STAC_FILE: _json(item),
    }
    if facts.has_licence_file:
        texts[LICENSE_FILE] = licence_text(facts)
    if results:
        sha256 = facts.record["weights_sha256"]
        texts |= hub_results(rows_of(results, facts.name, sha256))
        texts[RESULTS_FILE] = csv_text(renamed(results, facts.name, sha256))
    return texts


def _json(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

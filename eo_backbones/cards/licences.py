"""Under which terms weights may be used: the card's section, its front matter, and the text of ``LICENSE``.

``license: other`` needs ``license_name`` and ``license_link`` in the front matter (Hugging Face Hub documentation,
"Licenses"); the link is then a file of the same repository.
"""

from eo_backbones.cards.facts import LICENSE_FILE, OTHER, CardFacts

COPERNICUS = "Contains modified Copernicus Sentinel data."
"""The attribution that the legal notice on the use of Copernicus Sentinel data asks for; years as far as known."""

_UNNAMED = "see-licence-section"


def license_fields(facts: CardFacts) -> dict[str, str]:
    """Return the licence as the front matter has it."""
    if facts.license != OTHER:
        return {"license": facts.license}
    if not facts.has_licence_file:
        return {"license": OTHER, "license_name": _UNNAMED}
    assert facts.row is not None
    return {"license": OTHER, "license_name": facts.row.tag.replace("_", "-"), "license_link": LICENSE_FILE}


def licence_section(facts: CardFacts) -> str:
    """Return the section of the card."""
    text = f"Weights: `{facts.license}`."
    if facts.has_licence_file:
        text += (
            f" One source of the training images states no licence, so none of the standard ones is claimed for the "
            f"weights; [{LICENSE_FILE}]({LICENSE_FILE}) says what is granted and what is not."
        )
    elif facts.license == OTHER:
        text += " No standard licence was chosen for them; the terms of the training images apply as far as they reach."
    if facts.row:
        text += f" Training images: `{facts.row.data_license}`."
    sources = [f"- {entry.title}: {entry.terms} ({entry.origin})." for entry in facts.terms]
    return "\n".join(["## Licence and attribution", "", text, "", *sources, *([""] if sources else []), COPERNICUS])


def licence_text(facts: CardFacts) -> str:
    """Return the content of ``LICENSE`` for weights whose licence is ``other``."""
    sources = [
        f"* {entry.title} ({count:,} pairs of images)\n  {entry.origin}\n  Terms: {entry.terms}."
        for entry, (_, count) in zip(facts.terms, facts.sources, strict=True)
    ]
    return "\n\n".join(
        [
            f"Terms of the weights {facts.name}",
            "The weights were computed from images of several sources. One of these states no licence, so no standard\n"
            "licence is declared for the weights as a whole.",
            "As far as the authors of eo_backbones hold rights in the weights, they grant their use under the Apache\n"
            "License, Version 2.0 (http://www.apache.org/licenses/LICENSE-2.0). They grant nothing that is not\n"
            "theirs, and give no warranty: whether rights in the training images reach the weights, and what that\n"
            "means for your use, is for you to judge. The images are not part of the weights, and are not\n"
            "distributed with them.",
            "Sources of the training images:",
            *sources,
            COPERNICUS + "\n",
        ]
    )

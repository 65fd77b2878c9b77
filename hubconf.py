"""torch.hub entry points: one an architecture and one an alias, made from the cards.

torch.hub lists every public callable here, so everything else begins with an underscore or stays inside a function.
"""

dependencies = ["torch", "timm", "safetensors", "huggingface_hub", "msgspec", "yaml"]


def _entry_points():
    from zoo.registry.names import list_names, load_card, resolve

    cards = [load_card(name) for name in list_names()]
    names = {card.architecture for card in cards} | {alias for card in cards for alias in card.aliases}
    return {name: _entry_point(name, resolve(name)) for name in sorted(names) if name.isidentifier()}


def _entry_point(name, card):
    def build(pretrained=False, **kwargs):
        from zoo.build import create_model

        return create_model(name, pretrained, **kwargs)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{card.summary}\n\npretrained=True loads {card.name}; kwargs as in zoo.create_model."
    return build


globals().update(_entry_points())

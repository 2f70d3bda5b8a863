from timm.data import ImageNetInfo

from featdenoise.models.imagenet_names import imagenet_class_names


def test_there_are_a_thousand_different_names() -> None:
    names = imagenet_class_names()
    assert len(names) == len(set(names)) == 1000
    assert all(name.strip() == name for name in names if name)


def test_well_known_indices_have_their_names() -> None:
    names = imagenet_class_names()
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 999: "toilet tissue"}
    assert {index: names[index] for index in known} == known


def test_order_is_that_of_the_wordnet_ids_of_another_library() -> None:
    # The other library lists synonyms; wherever one of them is our name, it must be at our index.
    info = ImageNetInfo()
    ids = info.label_names()
    assert ids == sorted(ids)
    agree = [
        name.lower() in info.index_to_description(index).lower()
        for index, name in enumerate(imagenet_class_names())
    ]
    assert sum(agree) > 900

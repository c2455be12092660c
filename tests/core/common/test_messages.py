from hyperspy_fusion.core.common.messages import merged


def test_messages_of_one_image_stay_as_they_are():
    assert merged([("up to 3 pixels", "none")], "images") == ("up to 3 pixels", "none")


def test_numbers_become_ranges():
    one = ["moved by (1.5, -2) pixels of 16 x 16", "a"]
    other = ["moved by (1.5, 3) pixels of 16 x 16", "a"]
    assert merged([one, other], "images") == (
        "moved by (1.5, -2 to 3) pixels of 16 x 16",
        "a",
    )


def test_what_does_not_hold_everywhere_says_where():
    assert merged([(), ("gap of 1.0e-05",), ("gap of 2.5e-04",)], "tiles") == (
        "gap of 1.0e-05 to 2.5e-04 (2 of 3 tiles)",
    )


def test_names_with_digits_are_no_numbers():
    assert merged([("map of Cu_L3: 2",), ("map of Cu_L2: 2",)], "images") == (
        "map of Cu_L3: 2 (1 of 2 images)",
        "map of Cu_L2: 2 (1 of 2 images)",
    )

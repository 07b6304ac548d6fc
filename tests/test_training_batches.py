from dataclasses import replace

import planted
import pytest
import torch

from labclip.training.batches import Batches
from labclip.training.objective import Ranks
from labclip.training.recipes import RECIPES, complete_settings
from labclip.training.rows import read_data


def drawn(seed, with_images):
    """96 captions of 30 texts and 40 images, 7 a copy of 3, and two negatives each of the same texts and images."""
    draw = torch.Generator().manual_seed(seed)
    images, texts, _ = planted.world(40, seed=seed)
    images[7] = images[3].half()
    image, text = (torch.randint(count, (96,), generator=draw) for count in (40, 30))
    wrong, shown = (torch.randint(count, (96, 2), generator=draw) for count in (30, 40))
    has = torch.rand(96, 2, generator=draw) < 0.8
    others = {"negative_images": images[shown]} if with_images else {}
    features = planted.features(images, texts[text], texts[wrong], image, has_negative=has, **others)
    true = {(image, text) for image, text in zip(image.tolist(), text.tolist(), strict=True)}
    if with_images:
        there = torch.from_numpy(features.has_negative_image) & has
        true |= set(zip(shown[there].tolist(), wrong[there].tolist(), strict=True))
    same = {number: {3, 7} if number in (3, 7) else {number} for number in range(40)}
    return features, images, texts[:30], {(other, text) for image, text in true for other in same[image]}


def masked(features, ranks=None, **settings):
    """The batches of an epoch, each with the pairs of row and column that do not count."""
    settings = replace(RECIPES["labclip"], batch_size=32, hard_negatives=2, **settings)
    settings = complete_settings(settings, dim=planted.DIM, captions=96)
    ranks = ranks or Ranks()
    for batch in Batches(read_data(features), settings, 0, ranks, torch.device("cpu")).epoch(1):
        yield batch, set() if batch.skipped is None else set(map(tuple, batch.skipped.nonzero().tolist()))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("with_images", [False, True])
def test_absent_negatives_and_texts_that_are_true_of_an_image_do_not_count(seed, with_images):
    features, images, texts, true = drawn(seed, with_images)
    whole = list(masked(features))
    for batch, skipped in whole:
        image, text = ((rows @ known.T).argmax(dim=1).tolist() for rows, known in
                       ((batch.images, images), (batch.texts, texts)))  # fmt: skip
        own, absent = batch.columns.tolist(), batch.absent.nonzero().flatten().tolist()
        assert min(absent) >= batch.captions
        assert skipped == {
            (row, column) for row in range(len(image)) for column in range(len(text))
            if column in absent or (column != own[row] and (image[row], text[column]) in true)
        }  # fmt: skip
        assert len(skipped) > 20
    ranks = zip(*(masked(features, Ranks(index, 2)) for index in (0, 1)), strict=True)
    for (batch, skipped), parts in zip(whole, ranks, strict=True):
        of_ranks = {(int(part.columns[row]), column) for part, pairs in parts for row, column in pairs}
        assert of_ranks == {(int(batch.columns[row]), column) for row, column in skipped}


def test_nothing_is_masked_where_no_text_recurs_or_by_the_published_recipe():
    assert not any(skipped for _, skipped in masked(planted.drawn(96, k=2)))
    assert not any(skipped for _, skipped in masked(drawn(0, with_images=False)[0], published=True))

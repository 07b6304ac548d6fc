import pytest
import torch

import labclip
from labclip import metrics


def prepared(model, scenes):
    settings = model.clip.visual.preprocess_cfg
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (torch.from_numpy(scenes.images).permute(0, 3, 1, 2) / 255 - mean) / std


def binding(clip, images, scenes, tokenizer):
    with torch.no_grad():
        sides = [clip.encode_text(tokenizer(list(part)), normalize=True) for part in
                 (scenes.captions, scenes.swapped_captions)]  # fmt: skip
        return metrics.preferred(clip.encode_image(images, normalize=True), *sides).float().mean()


@pytest.mark.slow
def test_finetuning_learns_binding_and_leaves_the_model_alone(model):
    scenes = labclip.scenes.sample(256, seed=11)
    images = prepared(model, scenes)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tuned = labclip.training.finetune(
        model, images, scenes.captions, scenes.swapped_captions, epochs=5, batch_size=64, learning_rate=1e-3,
        progress=False,
    )  # fmt: skip
    assert not tuned.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    base = binding(model.clip, images, scenes, model.tokenizer)
    assert binding(tuned, images, scenes, model.tokenizer) > base + 0.1


def test_the_seed_reaches_it_and_missing_negatives_are_allowed(model):
    scenes = labclip.scenes.sample(32, seed=1)
    images = prepared(model, scenes)
    negatives = [None, *scenes.swapped_captions[1:]]
    empty = ["", *scenes.swapped_captions[1:]]
    options = {"epochs": 1, "batch_size": 8, "progress": False}
    first, same, other, none = (
        labclip.training.finetune(model, images, scenes.captions, wrong, seed=seed, **options).text_projection
        for seed, wrong in ((1, negatives), (1, negatives), (2, negatives), (1, empty))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(first, none)


def test_bad_input(model):
    scenes = labclip.scenes.sample(4)
    images, raw = prepared(model, scenes), torch.from_numpy(scenes.images)
    for given, captions, options, message in (
        (images, scenes.captions[:3], {}, "4 images, 3 captions and 4 negatives"),
        (raw, scenes.captions, {}, "needs preprocessed images and a tokenizer"),
        (images, scenes.captions, {"batch_size": 1}, "batch_size is 1. Pass a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            labclip.training.finetune(model, given, captions, scenes.swapped_captions, **options)

"""Each library of docs/libraries.md finds what labclip finds on one index, by the base and by the folded model."""

import importlib.util
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from close import UNIT
from PIL import Image

import labclip
from labclip import LABCLIP, Alignment, metrics

ROOT = Path(__file__).parent.parent
HARNESS = runpy.run_path(str(ROOT / "benchmarks" / "in_libraries.py"))
LIBRARIES = [library for library in HARNESS["LIBRARIES"] if library.installed]
pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("default")]  # other people's warnings


@pytest.fixture(scope="module")
def index():
    return HARNESS["make_index"]()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    HARNESS["write_folders"](folder)
    return folder


@pytest.fixture(scope="module")
def models():
    return {side: LABCLIP.from_pretrained("scenes", strength=at) for side, at in HARNESS["SIDES"].items()}


@pytest.fixture(scope="module")
def expected(index, models):
    """Unit-length embeddings of the captions by labclip itself."""
    return {side: model.encode_text(index.captions, normalize=True) for side, model in models.items()}


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.title)
def test_a_library_finds_what_labclip_finds(library, index, folders, models, expected, capsys):
    if not HARNESS["installed"](library.package):
        pytest.skip(f"{library.package} is not installed")
    figures = {}
    for side, texts in expected.items():
        results, _seconds = HARNESS["call"](library, index, folders, side)
        if isinstance(results, dict):
            figures[side] = results["text_acc"]
            sample = labclip.scenes.sample(len(index.captions), seed=HARNESS["SEED"])
            swapped = models[side].encode_text(sample.swapped_captions, normalize=True)
            images = torch.from_numpy(index.images[: len(texts)])
            assert figures[side] == pytest.approx(float(metrics.preferred(images, texts, swapped).float().mean()))
            continue
        figures[side] = HARNESS["recall"](results, index)
        assert figures[side] == pytest.approx(HARNESS["recall"](texts, index), abs=1e-7)
        if (embeddings := HARNESS["unit_embeddings"](results)) is not None:
            assert float((embeddings - texts).abs().max()) < UNIT
    assert figures["aligned"] > figures["base"] + 0.2
    with capsys.disabled():
        print(f"\n{library.title}: base {figures['base']:.3f}, aligned {figures['aligned']:.3f}")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Folders of a model that is not the matrix's base: the same architecture with other weights."""
    folder = tmp_path_factory.mktemp("other")
    base = LABCLIP.from_pretrained("scenes", strength=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in base.clip.transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    nothing = Alignment.identity(base.alignment.dim)
    model = LABCLIP(base.clip, nothing, tokenizer=base.tokenizer)
    labclip.fold(model, folder=folder / "folded", config=base.openclip_config["model_cfg"])
    labclip.fold(HARNESS["with_transformer"](model), to="transformers", folder=folder / "folded-hf")
    if importlib.util.find_spec("onnxscript"):
        labclip.fold(model, to="onnx", folder=folder / "folded-onnx")
    return folder


CLASSES = {
    "CLIP_benchmark": ("clip_benchmark.models", "load_clip"),
    "Chroma": ("chromadb.utils.embedding_functions", "OpenCLIPEmbeddingFunction"),
    "LangChain": ("langchain_experimental.open_clip", "OpenCLIPEmbeddings"),
    "LanceDB": ("lancedb.embeddings", "get_registry"),
    "transformers": ("transformers", "AutoModel"),
    "a pipeline": ("transformers", "pipeline"),
    "sentence-transformers": ("sentence_transformers", "SentenceTransformer"),
    "ONNX Runtime": ("onnxruntime", "InferenceSession"),
}
HOLDS = {
    "CLIP_benchmark": lambda load, clip, hf: load("open_clip", clip, "", None, "cpu")[0],
    "Chroma": lambda cls, clip, hf: cls(clip, "")._model,
    "LangChain": lambda cls, clip, hf: cls(model_name=clip, checkpoint="").model,
    "LanceDB": lambda registry, clip, hf: registry().get("open-clip").create(name=clip, pretrained="")._model,
    "transformers": lambda model, clip, hf: model.from_pretrained(hf),
    "a pipeline": lambda pipeline, clip, hf: pipeline("zero-shot-image-classification", hf),
    "sentence-transformers": lambda cls, clip, hf: cls(hf, device="cpu"),
    "ONNX Runtime": lambda session, clip, hf: Path(hf).parent / "folded-onnx" / "text.onnx",
}


def held(name, folder):
    """The model of a folder as a library holds it."""
    module, attribute = CLASSES[name]
    library_class = getattr(pytest.importorskip(module), attribute)
    return HOLDS[name](library_class, f"local-dir:{folder}/folded", f"{folder}/folded-hf")


@pytest.mark.parametrize("name", HOLDS)
def test_a_base_that_is_not_the_matrixs_is_refused_as_each_library_holds_it(name, other):
    with pytest.raises(ValueError, match="This model is not the one the alignment was fitted on"):
        labclip.fold(held(name, other), "scenes")


@pytest.mark.parametrize("name", ["Chroma", "LangChain", "LanceDB"])
def test_a_class_that_leaves_batchnorm_in_training_mode_gives_other_image_embeddings(name, folders, index):
    model = held(name, folders / "base")
    assert model.training
    pixels = LABCLIP.from_pretrained("scenes").preprocess(Image.fromarray(index.pixels[0]))[None]
    right = torch.from_numpy(index.images[0])
    with torch.no_grad():
        left = float(F.normalize(model.encode_image(pixels))[0] @ right)
        called = float(F.normalize(model.eval().encode_image(pixels))[0] @ right)
    assert left < 0.9
    assert called > 0.99  # not 1: the one image has moved the running statistics


def test_a_collection_and_a_table_of_the_base_still_search_with_the_base(index, folders):
    pytest.importorskip("chromadb")
    pytest.importorskip("lancedb")
    with HARNESS["inside"](folders / "aligned"):
        arguments = HARNESS["make_arguments"](index, folders, "aligned")
        photos, table = arguments["client"]().get_collection("existing"), arguments["table"]()
        results = {
            "Chroma": photos.query(query_texts=index.captions, n_results=1)["ids"],
            "LanceDB": [table.search(caption).limit(1).to_list()[0]["path"] for caption in index.captions],
        }
    for ids in results.values():
        assert HARNESS["recall"](ids, index) < 0.7

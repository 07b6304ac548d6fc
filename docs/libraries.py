"""How each library uses the matrix. `docs/libraries.md` is generated from these functions, and tests run them.

Each function is a section of the page: its docstring is the text, its body the code. It runs in a folder that contains
`folded`, `folded-hf` and `folded-onnx`. It returns embeddings of the captions [n, dim], the index of the first image
for each caption, R@1 itself, or another score as {name: value}. Its arguments are what a reader already has:

    images: Embeddings of images by the base, float32 [n_images, dim], unit length: the stored index.
    captions: list[str].
    texts: Embeddings of the captions, float32 [n, dim], unit length: `alignment(...)` of the base's.
    pairs: (image, its captions) for each image of the index, images as OpenCLIP's image transform gives them.
    client: Chroma's, whose collection `existing` stores `images` and was made with the base.
    table: LanceDB's, which stores `images` and was made with the base.
    connection: psycopg's, to a server with pgvector.
    architecture: OpenCLIP's name of the base's architecture.
    model: A model with its matrix, as `LABCLIP.from_pretrained` gives it.
    task: One of MTEB's tasks, as `mteb.get_task` gives it.
"""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

LIBRARIES = []


@dataclass(frozen=True)
class Library:
    """A section of the page.

    Attributes:
        title: Its heading.
        package: The name that pip installs; `benchmarks/in_libraries.py` records its version.
        run: The function.
        installed: Whether `make libraries` installs and runs it.
    """

    title: str
    package: str
    run: Callable
    installed: bool

    @property
    def words(self):
        """The text of the section."""
        return inspect.getdoc(self.run)

    @property
    def code(self):
        """The code to type."""
        source = inspect.getsource(self.run)
        body = textwrap.dedent(source.partition('"""')[2].partition('"""')[2].lstrip("\n"))
        return body.replace("\nreturn ", "\n").rstrip()


def library(title, package, *, installed=False):
    """Add the decorated function to `LIBRARIES`."""

    def add(function):
        LIBRARIES.append(Library(title, package, function, installed))
        return function

    return add


@library("OpenCLIP", "open_clip_torch", installed=True)
def openclip(captions):
    """Code that calls `create_model_and_transforms(name)` takes the folder by this name. OpenCLIP itself never calls
    `eval()`.
    """
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms("local-dir:folded")
    tokenizer = open_clip.get_tokenizer("local-dir:folded")
    return model.eval().encode_text(tokenizer(captions))


@library("CLIP_benchmark", "clip_benchmark", installed=True)
def clip_benchmark(pairs):
    """On the command line: `clip_benchmark eval --model local-dir:folded --pretrained "" --dataset ...`. It imports
    requests without saying so: `pip install clip_benchmark requests`. Its metric counts a tie as right.
    """
    from clip_benchmark.datasets.builder import image_captions_collate_fn
    from clip_benchmark.metrics import zeroshot_retrieval
    from clip_benchmark.models import load_clip
    from torch.utils.data import DataLoader

    model, _, tokenizer = load_clip("open_clip", "local-dir:folded", "", cache_dir=None, device="cpu")
    batches = DataLoader(pairs, len(pairs), collate_fn=image_captions_collate_fn)
    options = {"amp": False, "recall_k_list": [1]}
    scores = zeroshot_retrieval.evaluate(model.eval(), batches, tokenizer, "cpu", **options)
    return scores["image_retrieval_recall@1"]


@library("transformers", "transformers", installed=True)
def transformers(captions):
    """`CLIPTextModelWithProjection` and `pipeline("zero-shot-image-classification")` open the same folder. Before
    version 5 the features are a tensor, from then on an object that holds it.
    """
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained("folded-hf")
    processor = AutoProcessor.from_pretrained("folded-hf")
    features = model.get_text_features(**processor(text=captions, padding=True, return_tensors="pt"))
    return getattr(features, "pooler_output", features)


@library("sentence-transformers", "sentence-transformers", installed=True)
def sentence_transformers(captions):
    """It needs no custom code, so no `trust_remote_code`. `encode` takes images as well. A model that is loaded already
    is folded by `labclip.fold(model, "ViT-B-32")`.
    """
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer("folded-hf")
    return model.encode(captions)


@library("Chroma, a new collection", "chromadb", installed=True)
def chroma_new(captions, images, client):
    """Chroma stores the function with its arguments, so give the folder's full path: it is needed there whenever the
    collection is opened.
    """
    from chromadb.utils.embedding_functions import OpenCLIPEmbeddingFunction

    embed = OpenCLIPEmbeddingFunction("local-dir:folded", checkpoint="")
    photos = client.create_collection("photos", embedding_function=embed)
    photos.add(ids=[str(number) for number in range(len(images))], embeddings=images)
    return photos.query(query_texts=captions, n_results=1)["ids"]


@library("Chroma, an existing collection", "chromadb", installed=True)
def chroma_existing(captions, client):
    """Its images stay. Opened by its name alone, it embeds queries with the base, so give it the folded function. A
    collection that was made with another kind of function, or with none, refuses that; query it by vectors:
    `query(query_embeddings=embed(captions))`.
    """
    from chromadb.utils.embedding_functions import OpenCLIPEmbeddingFunction

    embed = OpenCLIPEmbeddingFunction("local-dir:folded", checkpoint="")
    photos = client.get_collection("existing", embedding_function=embed)
    return photos.query(query_texts=captions, n_results=1)["ids"]


@library("LangChain", "langchain-experimental", installed=True)
def langchain(captions):
    """Any of its vector stores takes these embeddings, also one that holds images embedded by the base."""
    from langchain_experimental.open_clip import OpenCLIPEmbeddings

    embeddings = OpenCLIPEmbeddings(model_name="local-dir:folded", checkpoint="")
    return embeddings.embed_documents(captions)


@library("LanceDB, a new table", "lancedb", installed=True)
def lancedb_new(captions, images):
    """The table stores the function's *name*, `open-clip`, and its arguments, not a model. So give the folder's full
    path: it is needed there whenever the table is opened. Register a function of your own before you open a table that
    uses it.
    """
    import lancedb
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector

    embed = get_registry().get("open-clip").create(name="local-dir:folded", pretrained="")

    class Photo(LanceModel):
        path: str = embed.SourceField()
        vector: Vector(embed.ndims()) = embed.VectorField()

    photos = lancedb.connect("lance").create_table("photos", schema=Photo)
    photos.add([{"path": str(number), "vector": image} for number, image in enumerate(images)])
    return [photos.search(caption).limit(1).to_list()[0]["path"] for caption in captions]


@library("LanceDB, an existing table", "lancedb", installed=True)
def lancedb_existing(captions, table):
    """Its stored name still means the base, so `table.search("a caption")` is not aligned. Search by vectors:"""
    from lancedb.embeddings import get_registry

    embed = get_registry().get("open-clip").create(name="local-dir:folded", pretrained="")
    queries = [embed.compute_query_embeddings(caption)[0] for caption in captions]
    return [table.search(query).limit(1).to_list()[0]["path"] for query in queries]


@library("LlamaIndex", "llama-index-embeddings-huggingface")
def llama_index(captions):
    """For `Settings.embed_model` or an index's `embed_model=`."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    embed = HuggingFaceEmbedding("folded-hf")
    return embed.get_text_embedding_batch(captions)


@library("Haystack", "sentence-transformers-haystack")
def haystack(captions):
    """The component goes into a pipeline before a retriever by embedding. Haystack keeps one model per name while it
    runs, also if the folder changes: give the full path.
    """
    from pathlib import Path

    from haystack_integrations.components.embedders import sentence_transformers

    embedder = sentence_transformers.SentenceTransformersTextEmbedder(
        model=str(Path("folded-hf").resolve()), progress_bar=False
    )
    embedder.warm_up()
    return [embedder.run(caption)["embedding"] for caption in captions]


@library("txtai", "txtai")
def txtai(captions):
    """The same arguments go into a configuration file."""
    from txtai import Embeddings

    embeddings = Embeddings(path="folded-hf", method="sentence-transformers")
    return embeddings.batchtransform(captions)


@library("fastembed", "fastembed")
def fastembed(captions):
    """It runs ONNX. Fold the matrix into its own text tower: `labclip fold --model clip-text/model.onnx --alignment
    ViT-B-32 folded-onnx`. Replace `model.onnx` by `text.onnx`, in the folder of the tokenizer's files.
    """
    from fastembed import TextEmbedding

    model = TextEmbedding("Qdrant/clip-ViT-B-32-text", specific_model_path="folded-fastembed")
    return list(model.embed(captions))


@library("faiss", "faiss-cpu", installed=True)
def faiss(texts, images):
    """The index stays as it is; only queries are aligned. The same holds for usearch, hnswlib and ScaNN."""
    import faiss

    index = faiss.IndexFlatIP(images.shape[1])
    index.add(images)
    return index.search(texts, 1)[1]


@library("Qdrant", "qdrant-client")
def qdrant(texts, images):
    """The same with a server: `QdrantClient(url=...)`. Milvus, Weaviate, Elasticsearch and the like take a query vector
    in the same way.
    """
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, PointStruct, VectorParams

    client = QdrantClient(":memory:")
    client.create_collection("photos", VectorParams(size=images.shape[1], distance=Distance.COSINE))
    points = [PointStruct(id=number, vector=image.tolist()) for number, image in enumerate(images)]
    client.upsert("photos", points)
    return [client.query_points("photos", text.tolist(), limit=1).points[0].id for text in texts]


@library("pgvector", "pgvector")
def pgvector(texts, images, connection):
    """Stored rows stay as they are; `connection` is psycopg's."""
    from pgvector.psycopg import register_vector

    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    register_vector(connection)
    connection.execute(f"CREATE TABLE photos (number int, embedding vector({images.shape[1]}))")
    connection.cursor().executemany("INSERT INTO photos VALUES (%s, %s)", list(enumerate(images)))
    nearest = "SELECT number FROM photos ORDER BY embedding <=> %s LIMIT 1"
    return [connection.execute(nearest, (text,)).fetchone()[0] for text in texts]


@library("DuckDB", "duckdb", installed=True)
def duckdb(texts, images):
    """No extension is needed to compare vectors; [this example](examples/search.md) is a whole search with it."""
    import duckdb

    photos = duckdb.connect()
    photos.execute(f"CREATE TABLE photos (number INTEGER, embedding FLOAT[{images.shape[1]}])")
    photos.executemany("INSERT INTO photos VALUES (?, ?)", list(enumerate(images.tolist())))
    distance = f"array_cosine_distance(embedding, ?::FLOAT[{images.shape[1]}])"
    nearest = f"SELECT number FROM photos ORDER BY {distance} LIMIT 1"
    return [photos.execute(nearest, [text]).fetchone()[0] for text in texts.tolist()]


@library("torchmetrics", "torchmetrics")
def torchmetrics(captions, pixels):
    """By name `CLIPScore` takes only a few models of the Hub; by a function it takes any. Compare its scores only with
    scores of the same model. Version 1.9 needs transformers 4.
    """
    from torchmetrics.multimodal.clip_score import CLIPScore
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained("folded-hf")
    processor = CLIPProcessor.from_pretrained("folded-hf")
    score = CLIPScore(lambda: (model, processor))
    return {"CLIPScore": score(pixels, captions).item()}


@library("MTEB", "mteb", installed=True)
def mteb(model, task):
    """MTEB and MIEB take an object with a few methods; here `model` is `LABCLIP.from_pretrained("ViT-B-32")` and `task`
    is `mteb.get_task("SugarCrepe")`. In `SugarCrepe`, `Winoground` and the ARO tasks a tie counts as right, since the
    right caption comes first; for `labclip.evaluate` it is wrong. A `SentenceTransformer` of the folded folder counts
    as a text model unless its meta names both modalities. MTEB keeps results by the model's name, so switch the cache
    off or name each strength differently.
    """
    import mteb
    import torch
    from mteb.models.model_meta import ModelMeta

    meta = {"name": "me/labclip", "modalities": ["text", "image"]}

    class Encoder:
        mteb_model_meta = ModelMeta.create_empty(meta)

        def encode(self, inputs, **_):
            with torch.no_grad():
                parts = [
                    model.encode_text(batch["text"], normalize=True)
                    if "text" in batch
                    else model.encode_image(batch["image"], normalize=True)
                    for batch in inputs
                ]
            return torch.cat(parts).numpy()

        def similarity(self, first, second):
            return torch.as_tensor(first) @ torch.as_tensor(second).T

        def similarity_pairwise(self, first, second):
            return (torch.as_tensor(first) * torch.as_tensor(second)).sum(dim=-1)

    result = mteb.evaluate(Encoder(), task, cache=None)
    return {"text_acc": result.task_results[0].scores["test"][0]["text_acc"]}


@library("ONNX Runtime", "onnxruntime", installed=True)
def onnx(captions):
    """The file takes token ids, as OpenCLIP's tokenizer gives them."""
    import onnxruntime
    import open_clip

    tokens = open_clip.get_tokenizer("local-dir:folded")(captions).numpy()
    session = onnxruntime.InferenceSession("folded-onnx/text.onnx")
    return session.run(["text_features"], {"input_ids": tokens})[0]


@library("Triton", "nvidia-pytriton")
def triton(captions):
    """PyTriton includes a Triton server with its Python backend, and batches requests. A Triton with the ONNX backend
    takes the file itself: `model_repository/text/1/model.onnx` with `platform: "onnxruntime_onnx"` (not tried). The
    Python backend loads the system's `libpython3.11.so.1.0`; for another Python set `LD_LIBRARY_PATH` to the folder of
    its library.
    """
    import numpy as np
    import onnxruntime
    import open_clip
    from pytriton.client import ModelClient
    from pytriton.decorators import batch
    from pytriton.model_config import Tensor
    from pytriton.triton import Triton

    session = onnxruntime.InferenceSession("folded-onnx/text.onnx")

    @batch
    def encode(input_ids):
        return session.run(["text_features"], {"input_ids": input_ids})

    tokens = open_clip.get_tokenizer("local-dir:folded")(captions).numpy()
    inputs = Tensor(name="input_ids", dtype=np.int64, shape=tokens.shape[1:])
    outputs = Tensor(name="text_features", dtype=np.float32, shape=(-1,))
    with Triton() as server:
        server.bind("text", encode, inputs=[inputs], outputs=[outputs])
        server.run()
        with ModelClient("localhost", "text") as client:
            batches = (tokens[start : start + 4] for start in range(0, len(tokens), 4))
            results = [client.infer_batch(batch) for batch in batches]
    return np.concatenate([result["text_features"] for result in results])


@library("FastAPI", "fastapi")
def fastapi(captions, images):
    """Open the model once, outside the routes. The index of image embeddings is in memory or in a database."""
    import open_clip
    import torch
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    model = open_clip.create_model("local-dir:folded").eval()
    tokenizer = open_clip.get_tokenizer("local-dir:folded")
    app = FastAPI()

    @app.get("/search")
    def search(text: str) -> int:
        with torch.inference_mode():
            query = model.encode_text(tokenizer([text]))[0].numpy()
        return int((images @ query).argmax())

    server = TestClient(app)
    return [server.get("/search", params={"text": caption}).json() for caption in captions]


@library("Ray Serve", "ray")
def ray_serve(captions, images):
    """Each replica opens the folder, so give a path that all machines see. Do not start Ray in a temporary folder: when
    it is removed, each replica ends with "oneMKL FATAL ERROR: Cannot load libtorch_cpu.so".
    """
    from pathlib import Path

    from ray import serve

    @serve.deployment
    class Search:
        def __init__(self, folder, images):
            import open_clip

            self.model = open_clip.create_model(folder).eval().requires_grad_(False)
            self.tokenizer, self.images = open_clip.get_tokenizer(folder), images

        def __call__(self, text):
            query = self.model.encode_text(self.tokenizer([text]))[0].numpy()
            return int((self.images @ query).argmax())

    search = serve.run(Search.bind(f"local-dir:{Path('folded').resolve()}", images))
    return [search.remote(caption).result() for caption in captions]


@library("all_clip, clip-retrieval", "all_clip")
def all_clip(captions, architecture):
    """all_clip 1.3 needs an OpenCLIP before 3, so use an environment without labclip; its CLIP package needs `pip
    install "setuptools<80"`. It opens no folder: give the name of the base's architecture, such as
    `ViT-B-32-quickgelu`, then "/" and the path of the folded *file*. The image transform is then OpenCLIP's default.
    clip-retrieval takes the same name (not tried): `clip-retrieval inference --clip_model NAME`.
    """
    from all_clip import load_clip

    name = f"open_clip:{architecture}/folded/open_clip_model.safetensors"
    model, _, tokenizer = load_clip(name, device="cpu", use_jit=False)
    return model.encode_text(tokenizer(captions))


@library("peft", "peft")
def peft(captions):
    """Fold first, then add untrained adapters, which change nothing. A base with trained adapters is another base,
    which `fold` refuses: merge them (`merge_and_unload()`) and fit a matrix for it.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel, AutoTokenizer

    lora = LoraConfig(target_modules=["q_proj", "v_proj"])
    model = get_peft_model(AutoModel.from_pretrained("folded-hf"), lora).eval()
    tokenizer = AutoTokenizer.from_pretrained("folded-hf")
    features = model.get_text_features(**tokenizer(captions, padding=True, return_tensors="pt"))
    return getattr(features, "pooler_output", features)


@library("accelerate", "accelerate")
def accelerate(captions):
    """Fold before `prepare` or `device_map`: what they return is wrapped."""
    from accelerate import Accelerator
    from transformers import AutoModel, AutoTokenizer

    model = Accelerator().prepare(AutoModel.from_pretrained("folded-hf", device_map="auto"))
    tokenizer = AutoTokenizer.from_pretrained("folded-hf")
    features = model.get_text_features(**tokenizer(captions, padding=True, return_tensors="pt"))
    return getattr(features, "pooler_output", features)

"""Search images by sentences, with the base and with its matrix, on one index that the base made.

    pip install labclip duckdb
    python search.py [--index photos.duckdb] [--out changed.png]

The index holds 250 rendered scenes and the same 250 with the colours of their objects swapped. Each query describes one
scene. What is printed and drawn is every query whose first hit is another with the matrix than without.

DuckDB is one package without dependencies; it keeps vectors as plain arrays in one file and compares them exactly. For
millions of images take an index of your own (docs/libraries.md): nothing else changes.
"""

import argparse
from dataclasses import replace

import duckdb
from PIL import Image, ImageDraw, ImageFont

from labclip import LABCLIP, scenes

SEED = 2  # any
SHOWN = 8  # queries drawn, the first that changed


def draw_scenes(n):
    """Scenes, and the same with the colours of their objects swapped."""
    drawn = scenes.sample(n, seed=SEED)
    swapped = replace(drawn.layout, colours=drawn.layout.colours[:, ::-1])
    return drawn, replace(drawn, layout=swapped)


def build(path, embeddings):
    """The index: a number and an embedding of each image."""
    index = duckdb.connect(path)
    index.execute(f"CREATE OR REPLACE TABLE images (number INTEGER, embedding FLOAT[{embeddings.shape[1]}])")
    index.executemany("INSERT INTO images VALUES (?, ?)", list(enumerate(embeddings.tolist())))
    return index


def first_hits(index, queries):
    """The number of the nearest image to each query."""
    nearest = (
        f"SELECT number FROM images ORDER BY array_cosine_distance(embedding, ?::FLOAT[{queries.shape[1]}]) LIMIT 1"
    )
    return [index.execute(nearest, [query]).fetchone()[0] for query in queries.tolist()]


def main():
    """Build the index, search it twice, print and draw what changed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--index", default=":memory:", help="file of the index; in memory by default")
    parser.add_argument("--out", default="changed.png", help="where to draw the queries that changed")
    options = parser.parse_args()

    model = LABCLIP.from_pretrained("scenes")
    drawn, swapped = draw_scenes(250)
    images = [Image.fromarray(image) for part in (drawn, swapped) for image in part.render(64)]
    index = build(options.index, model.encode_image(images, normalize=True).numpy())
    base, ours = (
        first_hits(index, model.encode_text(drawn.captions, aligned=aligned).numpy()) for aligned in (False, True)
    )

    changed = [query for query in range(len(base)) if base[query] != ours[query]]
    for query in changed:
        marks = ["right" if hits[query] == query else "wrong" for hits in (base, ours)]
        print(f"{drawn.captions[query]}: {' -> '.join(marks)}")
    for name, hits in (("base", base), ("LABCLIP", ours)):
        right = sum(hit == query for query, hit in enumerate(hits))
        print(f"{name}: the first of {len(images)} images is right for {right} of {len(hits)} queries")
    large = [image for part in (drawn, swapped) for image in part.render(192)]
    draw(options.out, [(drawn.captions[query], query, base[query], ours[query]) for query in changed[:SHOWN]], large)
    print(f"The first {min(SHOWN, len(changed))} of {len(changed)} queries that changed: {options.out}")


def draw(path, rows, images):
    """A card for each query: the caption, what the base found first, what LABCLIP found first."""
    font, small, width, height = ImageFont.load_default(size=20), ImageFont.load_default(size=16), 440, 290
    sheet = Image.new("RGB", (2 * width, height * ((len(rows) + 1) // 2)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (caption, right, *hits) in enumerate(rows):
        left, top = width * (place % 2) + 20, height * (place // 2) + 16
        pen.text((left, top), caption, fill="black", font=font)
        for column, (name, hit) in enumerate(zip(("base", "LABCLIP"), hits, strict=True)):
            x, colour = left + 204 * column, "#1f7a5c" if hit == right else "#c8442f"
            sheet.paste(Image.fromarray(images[hit]), (x, top + 34))
            pen.rectangle((x, top + 34, x + 191, top + 225), outline=colour, width=4)
            pen.text((x, top + 230), f"{name}: {'right' if hit == right else 'wrong'}", fill=colour, font=small)
    sheet.save(path)


if __name__ == "__main__":
    main()

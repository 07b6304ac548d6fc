// Aligns one text embedding with an alignment folder, without labclip: node reader.mjs FOLDER < embedding.json
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const folder = process.argv[2];
const { format_version, dim, matrix_sha256, strength = 1 } = JSON.parse(readFileSync(`${folder}/config.json`, "utf8"));
if (format_version !== 1) throw new Error(`format version ${format_version}, not 1`);

const file = readFileSync(`${folder}/model.safetensors`);
const start = 8 + Number(file.readBigUInt64LE(0));
const { dtype, shape, data_offsets } = JSON.parse(file.toString("utf8", 8, start)).matrix;
if (dtype !== "F32" || `${shape}` !== `${dim},${dim}`) throw new Error(`matrix is ${dtype} [${shape}]`);
const bytes = file.subarray(start + data_offsets[0], start + data_offsets[1]);
if (createHash("sha256").update(bytes).digest("hex") !== matrix_sha256) throw new Error("not the matrix of the config");

const text = JSON.parse(readFileSync(0, "utf8"));
if (text.length !== dim) throw new Error(`an embedding of ${text.length} numbers, not ${dim}`);
const entry = (row, column) => bytes.readFloatLE(4 * (row * dim + column));
const product = (row) => text.reduce((sum, value, column) => sum + entry(row, column) * value, 0);
console.log(JSON.stringify(text.map((value, row) => value + strength * (product(row) - value))));

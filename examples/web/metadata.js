// The metadata of an ONNX model: onnxruntime-web does not give them, so this reads them from the file's protobuf.

const METADATA_PROPS = 14; // the field of ModelProto

/** Return the metadata of a model as an object; the values are what JSON.parse makes of them. */
export function readMetadata(bytes) {
  const text = new TextDecoder();
  const metadata = {};
  for (const [field, entry] of fields(bytes)) {
    if (field !== METADATA_PROPS) continue;
    const [key, value] = [...fields(entry)].map(([, part]) => text.decode(part));
    metadata[key] = JSON.parse(value);
  }
  return metadata;
}

/** Yield the number and the bytes of each field of a message; those of numbers are skipped. */
function* fields(bytes) {
  let place = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[place++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (place < bytes.length) {
    const tag = varint();
    const kind = tag & 7;
    if (kind === 0) varint();
    else if (kind === 1) place += 8;
    else if (kind === 5) place += 4;
    else {
      const length = varint();
      yield [tag >> 3, bytes.subarray(place, place + length)];
      place += length;
    }
  }
}

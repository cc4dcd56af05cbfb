/**
 * File names as text. On Linux a name is any bytes; most are UTF-8, some are not. Those bytes that are not become lone low
 * surrogates (U+DC80 to U+DCFF), which no valid text holds, so that each name keeps its identity both ways.
 *
 * @see PEP 383, which describes the same for Python
 */

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
// With the flag u, halves of pairs do not match.
const escaped = /([\udc80-\udcff])/u;

/** The text that stands for a name. */
export function nameOf(bytes: Buffer): string {
  const text = bytes.toString('utf8');
  // The replacement character may also stand in the name itself.
  if (!text.includes('\ufffd') || isUtf8(bytes)) return text;
  let name = '';
  for (let at = 0; at < bytes.length;) {
    const size = [1, 2, 3, 4].find((length) => at + length <= bytes.length && isUtf8(bytes.subarray(at, at + length)));
    name += size === undefined ? String.fromCharCode(0xdc00 + bytes.readUInt8(at)) : bytes.toString('utf8', at, at + size);
    at += size ?? 1;
  }
  return name;
}

/** The bytes of a name. */
export function bytesOf(name: string): Buffer {
  if (isPlain(name)) return Buffer.from(name, 'utf8');
  const parts = name.split(escaped);
  return Buffer.concat(
    parts.map((part, index) => (index % 2 === 1 ? Buffer.of(part.charCodeAt(0) - 0xdc00) : Buffer.from(part, 'utf8'))),
  );
}

/** A path in the form that node:fs takes without loss. */
export function fsPath(path: string): string | Buffer {
  return isPlain(path) ? path : bytesOf(path);
}

// Told at once, where looking for what stands for bytes takes longer than to look at the file.
function isPlain(name: string): boolean {
  return name.isWellFormed() || !escaped.test(name);
}

function isUtf8(bytes: Uint8Array): boolean {
  try {
    strict.decode(bytes);
    return true;
  } catch {
    return false;
  }
}

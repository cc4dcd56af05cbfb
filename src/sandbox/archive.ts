/** One file, directory (a name that ends in `/`) or symbolic link for a container. */
export interface TarFile {
  /** Path below the root, without a leading slash. */
  name: string;
  content?: string | Uint8Array;
  /** Where a symbolic link points to. */
  link?: string;
  mode?: number;
  uid?: number;
  gid?: number;
}

/** What ends an archive. */
export const tarEnd: Uint8Array = new Uint8Array(1024);

/** One entry of an archive. @see POSIX.1-2024, pax, ustar Interchange Format */
export function tarEntry({ name, content = '', link, mode, uid = 0, gid = 0 }: TarFile): Uint8Array[] {
  const directory = name.endsWith('/');
  const body = Buffer.from(content);
  const header = Buffer.alloc(512);
  const octal = (value: number, at: number, width: number): void =>
    void header.write(value.toString(8).padStart(width - 1, '0'), at);
  // A name over 100 bytes goes into two fields, cut at a slash.
  const cut = Buffer.byteLength(name) > 100 ? name.indexOf('/', name.length - 101) : -1;
  if (Buffer.byteLength(name) - (cut + 1) > 100 || cut > 155) throw new RangeError(`name too long for ustar: ${name}`);
  header.write(name.slice(cut + 1), 0);
  header.write(name.slice(0, Math.max(cut, 0)), 345);
  header.write(link ?? '', 157);
  octal(mode ?? (directory ? 0o755 : 0o644), 100, 8);
  octal(uid, 108, 8);
  octal(gid, 116, 8);
  octal(body.length, 124, 12);
  octal(0, 136, 12);
  header.write(link !== undefined ? '2' : directory ? '5' : '0', 156);
  header.write('ustar\u000000', 257);
  header.fill(' ', 148, 156);
  octal(
    header.reduce((sum, byte) => sum + byte, 0),
    148,
    7,
  );
  return [header, body, Buffer.alloc((512 - (body.length % 512)) % 512)];
}

/** The content of the first regular file in an archive, as it comes. */
export async function* firstFile(archive: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let held = Buffer.alloc(0);
  let left: number | undefined;
  for await (const part of archive) {
    held = Buffer.concat([held, part]);
    while (left === undefined && held.length >= 512) {
      const size = Number.parseInt(held.toString('latin1', 124, 136), 8);
      const regular = held[156] === 0x30 || held[156] === 0;
      // Headers of other kinds (pax) come before the file's own, each with its body.
      const skip = regular ? 512 : 512 + Math.ceil(size / 512) * 512;
      if (held.length < skip) break;
      held = held.subarray(skip);
      if (regular) left = size;
    }
    if (left === undefined) continue;
    const body = held.subarray(0, left);
    left -= body.length;
    held = Buffer.alloc(0);
    yield body;
    if (left === 0) return;
  }
}

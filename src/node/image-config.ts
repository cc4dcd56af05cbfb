import { open } from 'node:fs/promises';
import { isDeepStrictEqual } from 'node:util';
import { HpcsError } from '../errors.ts';
import { configPlace, sifHeaderSize } from '../image/sif-header.ts';
import { imageConfigSchema, type ImageConfig } from '../record.ts';

/** Bytes of a configuration, at most. */
const largest = 4 * 1024 * 1024;

/**
 * Holds the vault's word on how an image is run against the image's own, which its digest covers. Who made the image could write the vault's
 * record anew, and whoever can read its key another record of it: neither may choose what is run beside somebody's data.
 *
 * @param sif the decrypted image, whose digest was compared
 * @param recorded what the vault's record says
 * @throws HpcsError `integrity` `record-mismatch`, or `image-unbound` for one that says nothing of it
 */
export async function checkImageConfig(sif: string, recorded: ImageConfig): Promise<void> {
  const own = await readImageConfig(sif);
  if (own === undefined) {
    throw new HpcsError('integrity', 'image-unbound', 'the image does not say itself how it is run', {
      suggestion: 'prepare it again: an earlier container-prep made it',
    });
  }
  if (isDeepStrictEqual(own, recorded)) return;
  throw new HpcsError(
    'integrity',
    'record-mismatch',
    "the vault's record of the image says another way to run it than the image itself",
    { suggestion: 'whoever made the image, or can read its key, has altered what is run: prepare the image yourself' },
  );
}

async function readImageConfig(sif: string): Promise<ImageConfig | undefined> {
  await using file = await open(sif, 'r');
  const place = configPlace(await bytesOf(file, 0, sifHeaderSize));
  if (place === undefined || place.size < 0 || place.size > largest || place.offset < 0) return undefined;
  const text = (await bytesOf(file, place.offset, place.size)).toString('utf8');
  try {
    return imageConfigSchema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

async function bytesOf(file: Awaited<ReturnType<typeof open>>, offset: number, size: number): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(size), 0, size, offset);
  return buffer.subarray(0, bytesRead);
}

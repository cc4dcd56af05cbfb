/**
 * Uploads: bytes go to a hidden neighbour of their path, over as many channels as the way there asks for, and appear by a rename.
 *
 * The neighbour is written through descriptors of one file, so that nobody who may write to its directory can put another in its
 * place. What the site has is acknowledged segment by segment; after a cut only the rest is sent, and the same bytes as before.
 */
import { HpcsError, messageOf } from '../errors.ts';
import { beside, exists, fileError, requireTemporary, run, type FileOptions } from './files.ts';
import { Patience, type PatienceOptions } from './patience.ts';
import { Shipment, type ShipmentOptions } from './shipment.ts';
import type { Transport } from './transport.ts';
import { removeOwnScript, renameScript, takenCode } from './upload-script.ts';

/** Options of {@link startUpload}. */
export interface UploadOptions extends ShipmentOptions {
  /** Told, with one line for people, of a lost connection, and when the temporary file could not be removed. */
  warn?: ((message: string) => void) | undefined;
}

/** Options of {@link Upload.publish}. */
export interface PublishOptions extends FileOptions {
  /** Replace what is there. Otherwise that is an error. */
  replace?: boolean;
}

/**
 * Writes a stream to a hidden temporary neighbour of `path`, whole and on disk, with its size checked on the site.
 *
 * The site removes the temporary file itself when the upload fails, is aborted, or loses its connection for longer than `patience`;
 * disposing of the upload removes it unless it was published.
 *
 * @throws HpcsError `site`: disk full, quota, permission, no such directory, a directory of that name; `integrity` when bytes are lost
 */
export async function startUpload(
  transport: Transport,
  path: string,
  content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  options: UploadOptions = {},
): Promise<Upload> {
  const shipment = new Shipment(transport, path, content, options);
  try {
    await shipment.run();
  } catch (error) {
    throw await shipment.abandon(error);
  }
  return new Upload(transport, path, shipment, options);
}

/** A file that lies complete on the site under a temporary name. */
export class Upload implements AsyncDisposable {
  /** Where it was meant for. */
  readonly path: string;
  /** Where it lies. */
  readonly temporary: string;
  /** In bytes. */
  readonly size: number;
  readonly #transport: Transport;
  readonly #inode: string;
  readonly #options: UploadOptions;
  #published = false;
  /** Paths that it was to have, where nothing was before: of a rename whose answer is lost it may have one. */
  readonly #tried: string[] = [];

  constructor(
    transport: Transport,
    path: string,
    { temporary, size, inode }: { temporary: string; size: number; inode: string },
    options: UploadOptions,
  ) {
    this.#transport = transport;
    this.path = path;
    this.temporary = temporary;
    this.size = size;
    this.#inode = inode;
    this.#options = options;
  }

  /** Renames it into place. @see Upload.publishAs */
  publish(options: PublishOptions = {}): Promise<string> {
    return this.publishAs(this.path, options);
  }

  /**
   * Renames it into place or, where something is there already, beside that.
   *
   * @param suffix what the name has before its extension there
   * @returns where it is
   * @throws HpcsError `site`, code `site-exists` when both are taken
   */
  async publishBeside(suffix: string, options: FileOptions = {}): Promise<string> {
    try {
      return await this.publish(options);
    } catch (error) {
      if (!(error instanceof HpcsError && error.code === 'site-exists')) throw error;
    }
    return this.publishAs(beside(this.path, suffix), options);
  }

  /**
   * Renames it to `path`, in the same directory, in one step: who looks sees the old file, or none, or the whole new one. Tried again
   * for as long as the upload is.
   *
   * @returns `path`
   * @throws HpcsError `site`, code `site-exists` when something is there and `replace` is not set
   */
  async publishAs(path: string, options: PublishOptions = {}): Promise<string> {
    const script = renameScript({ temporary: this.temporary, path, inode: this.#inode }, options.replace === true);
    const signal = options.signal ?? this.#options.signal;
    if (options.replace !== true) this.#tried.push(path);
    const renamed = (): ReturnType<typeof run> => run(this.#transport, script, { signal });
    const { code, stderr } = await throughCuts(renamed, { ...this.#options, signal });
    if (code === takenCode) {
      // Somebody else's, whatever becomes of this one.
      this.#tried.pop();
      throw exists(path);
    }
    if (code !== 0) throw fileError('publish', path, stderr, code);
    this.#published = true;
    return path;
  }

  /**
   * Removes the file unless it was published, under whatever name: with its temporary one or, where the answer to a rename was lost, with
   * that. What cannot be removed is said through `warn`.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#published) return;
    try {
      requireTemporary(this.temporary);
      const script = removeOwnScript({ temporary: this.temporary, inode: this.#inode }, this.#tried);
      const { code, stderr } = await run(this.#transport, script);
      if (code !== 0) throw fileError('remove', this.temporary, stderr, code);
    } catch (error) {
      const names = [this.temporary, ...this.#tried].join(' or ');
      this.#options.warn?.(`the unpublished file ${names} may remain on the site (${messageOf(error)})`);
    }
  }
}

/** Does a step that can be done twice, again and again while the connection is cut. */
async function throughCuts<Result>(step: () => Promise<Result>, options: PatienceOptions): Promise<Result> {
  const patience = new Patience(options);
  for (;;) {
    try {
      return await step();
    } catch (error) {
      await patience.bear(error);
    }
  }
}

/** Uploads a stream and publishes it: {@link startUpload}, then {@link Upload.publish}. @returns its size in bytes */
export async function uploadFile(
  transport: Transport,
  content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  path: string,
  options: UploadOptions & PublishOptions = {},
): Promise<number> {
  await using upload = await startUpload(transport, path, content, options);
  await upload.publish(options);
  return upload.size;
}
